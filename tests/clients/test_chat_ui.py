"""The pages of docs/guides/chat-ui.md in a browser, built from the guide's text, on `coordinator dev`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from coordinator.servers.process import free_port
from tests.clients.npm import NPM, installed
from tests.support.browser import needs_chromium
from tests.support.served import _MAIN, environment
from tests.support.serving import started

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "chat-ui.md").read_text(encoding="utf-8")
PACKAGE = Path(__file__).parent / "chat_ui"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not NPM, reason="NOT RUN: needs node and npm: install them"),
    needs_chromium,
]


def block(language: str, containing: str = "") -> str:
    """The guide's fenced block of that language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    return next(text for text in blocks if containing in text)


HELD = "held"
"""While this file exists, an answer to "Reload me" waits after its tenth word."""


def agent(held: Path) -> str:
    """The guide's agent, which a slow browser does not miss."""
    pause = "            await asyncio.sleep(0.05)\n"
    waits = (
        "            reloads = number == 10 and messages[-1]['content'] == 'Reload me'\n"
        f"            while reloads and os.path.exists({str(held)!r}):\n"
        "                await asyncio.sleep(0.02)\n"
    )
    source = block("python", "async def chat")
    assert pause in source
    return "import os\n" + source.replace(pause, pause + waits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat-ui")


SDK, REACT = "@langchain/langgraph-sdk/react", "@langchain/react"
of_the_sdk = pytest.mark.parametrize("site", [SDK], indirect=True)
"""What only one of the two pages has."""


@pytest.fixture(scope="module", params=[SDK, REACT])
def site(request: pytest.FixtureRequest, folder: Path) -> Generator[str]:
    installed(PACKAGE)
    api, page = free_port(), free_port()
    (folder / "chat.py").write_text(agent(folder / HELD), encoding="utf-8")
    (folder / "index.html").write_text(block("html"), encoding="utf-8")
    script = block("jsx", f'from "{request.param}"').replace(
        "http://localhost:2024", f"http://localhost:{api}"
    )
    (folder / "app.jsx").write_text(script, encoding="utf-8")
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(PACKAGE / "node_modules")
    serve = shlex.split(block("sh", "coordinator dev"))
    variables = dict(word.split("=", 1) for word in serve if word.startswith("COORDINATOR_"))
    command = serve[serve.index("dev") :]
    build = block("sh", "npx esbuild").removeprefix("npx ").replace("5173", str(page)).strip()
    with ExitStack() as stack:
        stack.enter_context(
            started(
                [sys.executable, "-c", _MAIN, *command, "--port", str(api)],
                f"http://localhost:{api}",
                "/ok",
                environment(**variables, PYTHONPATH=f"{folder}"),
            )
        )
        shell = ["sh", "-c", f"cd {shlex.quote(str(folder))} && exec node_modules/.bin/{build}"]
        yield stack.enter_context(started(shell, f"http://localhost:{page}", "/app.js"))


def send(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def finished(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)


def answers(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("li.ai span").all_inner_texts()]


WHOLE = " ".join(str(number) for number in range(1, 41))


def test_the_packages_that_the_guide_names_are_tested() -> None:
    text = (PACKAGE / "package.json").read_text(encoding="utf-8")
    for package in ("@langchain/langgraph-sdk@1.15.0", "@langchain/react@1.1.0"):
        named = set(block("sh", f"npm install {package}").split()[2:])
        assert all(f'"{name.rpartition("@")[0] or name}"' in text for name in named)
        name, _, version = package.rpartition("@")
        assert f'"{name}": "{version}"' in text


def test_tokens_are_shown_while_the_run_emits(page: Page) -> None:
    send(page, "Hello")
    expect(page.locator("li.human span")).to_have_text("Hello")
    expect(page.locator("li.ai span")).to_contain_text("1 2 3")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    finished(page)
    assert answers(page) == [WHOLE]
    expect(page.get_by_role("alert")).to_have_count(0)


def test_stop_keeps_the_partial_answer(page: Page) -> None:
    send(page, "Count")
    expect(page.locator("li.ai span")).to_contain_text("7 8")
    page.get_by_role("button", name="Stop").click()
    finished(page)
    expect(page.locator("li.ai span")).to_contain_text("7 8")
    page.reload()
    expect(page.locator("li.ai span")).to_contain_text("7 8")
    stopped = answers(page)
    assert len(stopped) == 1
    assert "40" not in stopped[0].split()
    send(page, "And now")  # the thread is free and continues from there
    expect(page.locator("li.ai span").last).to_contain_text("39 40")
    finished(page)
    assert answers(page) == [*stopped, WHOLE]
    expect(page.locator("li.human span")).to_have_text(["Count", "And now"])
    expect(page.get_by_role("alert")).to_have_count(0)


def test_reload_resumes_the_running_answer(page: Page, folder: Path) -> None:
    (folder / HELD).touch()
    send(page, "Reload me")
    expect(page.locator("li.ai span")).to_contain_text("5 6")
    page.reload()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator("li.ai span")).to_contain_text("1 2 3 4 5 6 7 8 9 10")
    (folder / HELD).unlink()
    finished(page)
    assert answers(page) == [WHOLE]


@of_the_sdk
def test_regenerated_answer_keeps_both_versions(page: Page) -> None:
    send(page, "First")
    finished(page)
    send(page, "Second")
    finished(page)
    page.get_by_role("button", name="Again").last.click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    finished(page)
    assert answers(page) == [WHOLE, WHOLE], "in the place of the second, not behind it"
    expect(page.locator("li.human span")).to_have_text(["First", "Second"])
    version = page.get_by_role("button", name="Version 2 of 2")
    expect(version).to_have_count(1)
    version.click()
    expect(page.get_by_role("button", name="Version 1 of 2")).to_have_count(1)
    page.get_by_role("button", name="Again").last.click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    finished(page)
    expect(page.get_by_role("button", name="Version 3 of 3")).to_have_count(1)


@of_the_sdk
def test_the_first_answer_is_regenerated_as_well(page: Page) -> None:
    send(page, "Only")
    finished(page)
    page.get_by_role("button", name="Again").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    finished(page)
    assert answers(page) == [WHOLE]
    expect(page.locator("li.human span")).to_have_text(["Only"])
    expect(page.get_by_role("button", name="Version 2 of 2").first).to_be_visible()


def test_threads_are_listed(page: Page) -> None:
    send(page, "One of two")
    finished(page)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("li")).to_have_count(0)
    send(page, "Two of two")
    finished(page)
    page.get_by_role("navigation").get_by_role("button", name="One of two").click()
    expect(page.locator("li.human span")).to_have_text(["One of two"])
    assert answers(page) == [WHOLE]
