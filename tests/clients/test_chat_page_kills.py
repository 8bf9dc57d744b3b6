"""The page of examples/chat while workers are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from tests.clients.test_chat_page import ASSISTANT, PAGE, ROOT
from tests.support.browser import CHROMIUM, QUIET, needs_chromium
from tests.support.pages import OBSERVE, numbers
from tests.support.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), needs_chromium]

PERIOD = 2.0  # s
KILLS = 6
"""After each death of its worker, a run waits longer for the next one: 1, 2, 4, 8 s."""
LAST = 250
"""Counting to it takes longer than the kills."""


async def kill_workers(server: Served) -> None:
    """Kills one worker after another. The supervisor starts another one in its place."""
    for number in range(KILLS):
        await asyncio.sleep(PERIOD)
        with suppress(ProcessLookupError):  # the supervisor is about to replace it
            os.kill(server.workers[number % 3 + 1], signal.SIGKILL)


async def test_answer_is_complete_while_a_worker_is_killed_every_two_seconds(tmp_path: Path) -> None:
    options = (
        "--workers",
        "3",
        "--assistants",
        ASSISTANT,
        "--page",
        str(PAGE),
        "--grace",
        "0",
    )
    async with (
        served("serve", *options, folder=tmp_path, PYTHONPATH=str(ROOT), CHAT_PAUSE="0.05") as server,
        async_playwright() as driver,
    ):
        base = await server.up()
        await server.wait_for_line("listens, epoch", times=3)
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await browser.new_page()
        await page.goto(f"{base}/page/")
        await page.evaluate(OBSERVE)
        await page.get_by_label("Your message").fill(f"count to {LAST}")
        await page.keyboard.press("Enter")
        answers = page.locator("li.ai .text")
        await expect(answers).to_contain_text("1 2 3", timeout=20_000)
        killing = asyncio.ensure_future(kill_workers(server))
        await expect(answers).to_have_text(numbers(LAST), timeout=100_000)
        await killing
        await expect(page.get_by_role("button", name="Again")).to_be_visible(timeout=20_000)
        await expect(answers).to_have_text([numbers(LAST)])
        await expect(page.locator("li.human .text")).to_have_text([f"count to {LAST}"])
        seen: list[str] = await page.evaluate("window.seen")
        assert [text for text in seen if not numbers(LAST).startswith(text.strip())] == []
        await page.reload()
        await expect(answers).to_have_text([numbers(LAST)], timeout=20_000)
        assert server.output.count("was ended by SIGKILL") >= KILLS - 1, "one may hit a worker twice"
        await browser.close()
