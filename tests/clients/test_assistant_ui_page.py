"""A chat front end of others in a browser: assistant-ui with `useLangGraphRuntime`, as its documentation sets
it up. A function on SQLite and a graph on PostgreSQL, each on three workers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from coordinator.servers.process import free_port
from tests.support.browser import needs_chromium
from tests.support.served import _MAIN, environment
from tests.support.serving import started

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "pages" / "assistant_ui"
PAGE = FOLDER / "dist"
FUNCTION = "examples.chat.app:chat"
ASSISTANTS = {"function": "chat", "graph": "desk"}
LONG = 30_000  # ms

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), needs_chromium]


@contextmanager
def running(program: list[str], *options: str, **variables: str) -> Generator[str]:
    port = free_port()
    command = [sys.executable, *program, *options, "--port", str(port), "--grace", "0"]
    settings = environment(PYTHONPATH=str(ROOT), CHAT_PAUSE="0.005", DESK_PAUSE="0.01", **variables)
    with started(command, f"http://127.0.0.1:{port}", "/ok", settings) as base:
        yield base


def serving(*options: str, **variables: str) -> AbstractContextManager[str]:
    return running(["-c", _MAIN, "serve"], "--assistants", FUNCTION, *options, **variables)


@pytest.fixture(scope="module", params=ASSISTANTS)
def site(request: pytest.FixtureRequest) -> Generator[str]:
    with ExitStack() as stack:
        if request.param == "function":
            base = stack.enter_context(serving("--workers", "3", "--page", str(PAGE)))
        else:
            pytest.importorskip("langgraph", reason="NOT RUN: needs the extra langgraph")
            cluster = [str(ROOT / "examples" / "langgraph" / "cluster.py")]
            base = stack.enter_context(running(cluster, "--page", str(PAGE)))
        yield f"{base}/page/?assistant={ASSISTANTS[request.param]}"


@pytest.fixture
def dispatching(tmp_path: Path) -> Generator[str]:
    """Two workers that only admit, and behind them one that executes."""
    store = ("--store", f"sqlite:///{tmp_path / 'runs.db'}")
    with (
        serving("--workers", "2", "--admit-only", "--page", str(PAGE), *store) as base,
        serving(*store),
    ):
        yield base


@pytest.fixture
def page(page: Page, site: str) -> Page:
    page.goto(site)
    return page


def numbers(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


def send(page: Page, text: str) -> None:
    page.get_by_label("Message input").fill(text)
    page.keyboard.press("Enter")


def stop(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop")


def questions(page: Page) -> Locator:
    return page.locator("[data-role=user] .text")


def answers(page: Page) -> Locator:
    return page.locator("[data-role=assistant] .text")


def finished(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=LONG)


def complete_run(page: Page, text: str, last: int) -> None:
    before = questions(page).count()
    send(page, text)
    expect(questions(page)).to_have_count(before + 1)
    expect(answers(page).last).to_have_text(numbers(last), timeout=LONG)
    finished(page)


OBSERVE = """() => {
  window.seen = [];
  const note = () => {
    const answer = [...document.querySelectorAll("[data-role=assistant] .text")].at(-1);
    if (answer) window.seen.push(answer.textContent.replace("●", "").trim());
  };
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def test_guide_shows_the_set_up_of_the_page() -> None:
    guide = (ROOT / "docs" / "guides" / "chat-ui.md").read_text(encoding="utf-8")
    shown = re.search(r"^```tsx\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    assert shown is not None
    source = (FOLDER / "src" / "MyAssistant.tsx").read_text(encoding="utf-8")
    assert [part for part in shown[1].split("\n\n") if part not in source] == []
    versions = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]
    runtime, react = versions["@assistant-ui/react-langgraph"], versions["@assistant-ui/react"]
    assert f"`@assistant-ui/react-langgraph` ({runtime}, with `@assistant-ui/react` {react})" in guide


def test_tokens_are_shown_as_they_are_emitted(page: Page) -> None:
    page.evaluate(OBSERVE)
    send(page, "count to 60")
    expect(stop(page)).to_be_visible()
    expect(answers(page)).to_have_text(numbers(60), timeout=LONG)
    finished(page)
    seen: list[str] = page.evaluate("window.seen")
    assert [text for text in seen if not numbers(60).startswith(text)] == []
    assert len({len(text) for text in seen}) > 5
    complete_run(page, "count to 5", 5)
    expect(answers(page)).to_have_text([numbers(60), numbers(5)])
    expect(questions(page)).to_have_text(["count to 60", "count to 5"])


def test_reload_shows_the_conversation(page: Page) -> None:
    complete_run(page, "count to 3", 3)
    complete_run(page, "count to 4", 4)
    page.reload()
    expect(answers(page)).to_have_text([numbers(3), numbers(4)])
    expect(questions(page)).to_have_text(["count to 3", "count to 4"])
    complete_run(page, "count to 5", 5)
    expect(answers(page)).to_have_text([numbers(3), numbers(4), numbers(5)])


def test_stopped_run_frees_its_thread(page: Page) -> None:
    send(page, "count to 1000")
    expect(answers(page)).to_contain_text("12 13")
    stop(page).click()
    finished(page)
    assert "1000" not in answers(page).inner_text().split()
    complete_run(page, "count to 3", 3)
    expect(questions(page)).to_have_text(["count to 1000", "count to 3"])
    page.reload()
    expect(answers(page).last).to_have_text(numbers(3))
    expect(questions(page)).to_have_text(["count to 1000", "count to 3"])


@pytest.mark.parametrize("site", ["function"], indirect=True)
def test_run_of_another_worker_is_stopped(page: Page, dispatching: str) -> None:
    page.goto(f"{dispatching}/page/?assistant=chat")
    send(page, "count to 4000")
    region = page.get_by_role("region", name="Interrupt")
    region.get_by_role("button", name="Approve").click(timeout=LONG)
    expect(answers(page)).to_contain_text("12 13", timeout=LONG)
    stop(page).click()
    finished(page)
    complete_run(page, "count to 3", 3)  # once the thread is free
    thread = parse_qs(urlsplit(page.url).query)["thread"][0]
    runs = page.request.get(f"{dispatching}/threads/{thread}/runs").json()
    assert [run["status"] for run in runs] == ["success", "interrupted", "success"]


def test_run_whose_page_was_reloaded_is_stopped(page: Page) -> None:
    complete_run(page, "count to 2", 2)
    send(page, "count to 1000")
    expect(answers(page).last).to_contain_text("12 13")
    page.reload()
    expect(answers(page).first).to_have_text(numbers(2))
    complete_run(page, "count to 3", 3)
    expect(questions(page)).to_have_text(["count to 2", "count to 1000", "count to 3"])


def test_edited_message_replaces_what_followed(page: Page) -> None:
    complete_run(page, "count to 3", 3)
    complete_run(page, "count to 4", 4)
    for index, (text, last, left) in enumerate(
        [("count to 5", 5, [numbers(3), numbers(5)]), ("count to 6", 6, [numbers(6)])]
    ):
        page.get_by_role("button", name="Edit").nth(1 - index).click()
        page.get_by_label("Edit the message").fill(text)
        page.get_by_role("button", name="Update").click()
        expect(answers(page).last).to_have_text(numbers(last), timeout=LONG)
        finished(page)
        for _ in range(2):
            expect(answers(page)).to_have_text(left)
            expect(questions(page).last).to_have_text(text)
            page.reload()


def test_regenerated_answer_replaces_the_first_one(page: Page) -> None:
    complete_run(page, "count to 3", 3)
    complete_run(page, "count to 4", 4)
    for _ in range(3):
        with page.expect_response("**/runs/stream") as again:
            page.get_by_role("button", name="Refresh").last.click()
        assert again.value.ok
        finished(page)
        expect(answers(page)).to_have_text([numbers(3), numbers(4)], timeout=LONG)
    page.reload()
    expect(answers(page)).to_have_text([numbers(3), numbers(4)])
    expect(questions(page)).to_have_text(["count to 3", "count to 4"])


def interrupted(page: Page, site: str) -> tuple[Locator, list[str]]:
    """The question of the run, and the answers that follow an approval and a rejection."""
    region = page.get_by_role("region", name="Interrupt")
    if "chat" in site:
        send(page, "count to 1001")
        expect(region).to_contain_text("Count to 1001?", timeout=LONG)
        return region, ["1 2 3", "As you wish."]
    send(page, "refund 250 for order 1042")
    expect(region).to_contain_text("Refunds above 100 € need your approval", timeout=LONG)
    return region, ["250 € are on their way", "The refund was not approved"]


def test_question_is_answered(page: Page, site: str) -> None:
    for number, name in enumerate(("Approve", "Reject")):
        region, after = interrupted(page, site)
        if number:
            page.reload()  # the run has paused and holds no worker
        region.get_by_role("button", name=name).click()
        expect(answers(page).last).to_contain_text(after[number], timeout=LONG)
        finished(page)
        expect(region).to_have_count(0)
        page.reload()
        expect(answers(page).last).to_contain_text(after[number])
        expect(region).to_have_count(0)


def test_threads_are_listed_renamed_by_their_first_message_and_deleted(page: Page) -> None:
    threads = page.get_by_role("navigation", name="Threads")
    complete_run(page, "count to 7", 7)
    threads.get_by_role("button", name="New Thread").click()
    expect(questions(page)).to_have_count(0)
    complete_run(page, "count to 8", 8)
    threads.get_by_role("button", name="count to 7").first.click()
    expect(answers(page)).to_have_text([numbers(7)])
    page.reload()
    expect(answers(page)).to_have_text([numbers(7)])
    threads.get_by_role("button", name="count to 8").first.click()
    expect(answers(page)).to_have_text([numbers(8)])
    item = threads.locator(".item").filter(has_text="count to 7")
    before = item.count()
    with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        item.first.get_by_label("Delete thread").click()
    assert deleted.value.ok
    expect(item).to_have_count(before - 1)
    page.reload()
    expect(answers(page)).to_have_text([numbers(8)])
    expect(item).to_have_count(before - 1)


def test_runs_of_two_threads_are_in_progress_at_once(page: Page) -> None:
    threads = page.get_by_role("navigation", name="Threads")
    send(page, "count to 310")
    expect(answers(page)).to_contain_text("1 2 3", timeout=LONG)
    threads.get_by_role("button", name="New Thread").click()
    complete_run(page, "count to 9", 9)
    threads.get_by_role("button", name="count to 310").first.click()
    expect(answers(page)).to_have_text(numbers(310), timeout=LONG)
    expect(questions(page)).to_have_text("count to 310")


@pytest.mark.parametrize("site", ["graph"], indirect=True)
def test_error_of_a_run_is_shown(page: Page) -> None:
    complete_run(page, "count to 2", 2)  # the error is shown below the last answer
    send(page, "crash")
    expect(page.get_by_role("alert")).to_contain_text("the model does not answer", timeout=LONG)
    finished(page)
    complete_run(page, "count to 3", 3)
