"""The chat of examples/ in a real browser, on two workers: send, stop while it streams, reload, re-attach."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from tests.support.browser import needs_chromium
from tests.support.serving import started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    needs_chromium,
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("chat")
    port = free_port()
    with ValkeyServer() as redis:
        places = {"COORDINATOR_STORE": f"sqlite:///{folder / 'chat.db'}", "COORDINATOR_REDIS": redis.url}
        paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
        program = (
            f"from coordinator.gateway import serve; serve('examples.chat.app:app', port={port}, workers=2)"
        )
        command = [sys.executable, "-c", program]
        with started(command, f"http://127.0.0.1:{port}", "/api/ok", places | paths) as base:
            yield base


def send_message(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_answer_is_shown_while_it_is_emitted(page: Page) -> None:
    send_message(page, "Hello")
    answer = page.locator("li.assistant")
    expect(answer).to_contain_text("a good question.")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()  # it is still being written
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)
    expect(answer).to_contain_text("35,")
    expect(page.locator("li")).to_have_text(["Hello", answer.inner_text()])


def test_stop_keeps_the_partial_answer(page: Page) -> None:
    send_message(page, "Count")
    expect(page.locator("li.assistant")).to_contain_text("13,")  # between two saves
    shown = page.locator("li.assistant").inner_text().strip()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    shown_text = page.locator("li.assistant").inner_text()
    assert shown_text.startswith(shown), "all of it"
    assert "35," not in shown_text
    send_message(page, "Again")  # the thread is free at once
    expect(page.locator("li.assistant").nth(1)).to_contain_text("“Again” is")
    assert page.locator("li.assistant").first.inner_text() == shown_text


@pytest.mark.parametrize("words", [7, 40, 45])
def test_complete_answer_is_kept(page: Page, words: int) -> None:
    """However many words it has: what was saved on the way is not the end of it."""
    page.goto(f"/?words={words}&pause=0.01")
    send_message(page, "Hello")
    answer, last = page.locator("li.assistant"), f" {words - 5},"
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(answer).to_contain_text(last)
    shown_text = answer.inner_text()
    page.reload()
    expect(page.locator("li")).to_have_text(["Hello", shown_text])


def test_refused_question_stays_in_the_input_field(page: Page) -> None:
    """The thread is busy with a run of another tab."""
    page.goto("/?words=2&pause=0")
    send_message(page, "First")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator("li")).to_have_count(2)
    other = page.context.new_page()
    other.goto(page.url.replace("words=2&pause=0", "words=900&pause=0.1"))
    expect(other.locator("li")).to_have_count(2)
    send_message(other, "Second")
    expect(other.get_by_role("button", name="Stop")).to_be_visible()
    send_message(page, "Third")
    expect(page.get_by_role("status")).to_contain_text("409")
    expect(page.get_by_label("Your message")).to_have_value("Third")
    other.get_by_role("button", name="Stop").click()
    expect(other.get_by_role("button", name="Send")).to_be_visible()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("li.user").last).to_have_text("Third")
    expect(page.get_by_label("Your message")).to_have_value("")


def test_reload_resumes_the_running_answer(page: Page) -> None:
    send_message(page, "Reload me")
    expect(page.locator("li.assistant")).to_contain_text("6,")
    page.reload()
    answer = page.locator("li.assistant")
    expect(answer).to_contain_text("“Reload me” is a good question. 1, 2, 3, 4, 5, 6, 7,")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()  # the run continues
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    stopped = answer.inner_text()
    page.reload()
    expect(page.locator("li")).to_have_text(["Reload me", stopped])
