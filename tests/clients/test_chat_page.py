"""The page of examples/chat in a browser, on three workers: `useStream` of `@langchain/react`."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from coordinator.servers.process import free_port
from tests.support.browser import needs_chromium
from tests.support.pages import LONG, answers, growing_to, numbers, questions, send, stop
from tests.support.served import _MAIN, environment
from tests.support.serving import started

ROOT = Path(__file__).resolve().parents[2]
ASSISTANT = "examples.chat.app:chat"
PAGE = ROOT / "examples" / "chat" / "page" / "dist"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), needs_chromium]


@contextmanager
def serving(*assistants: str, **variables: str) -> Generator[str]:
    """Three workers."""
    port = free_port()
    command = ["serve", "--workers", "3", *assistants, "--page", str(PAGE), "--port", str(port)]
    settings = environment(PYTHONPATH=str(ROOT), **variables)
    program = [sys.executable, "-c", _MAIN, *command, "--grace", "0"]
    with started(program, f"http://127.0.0.1:{port}", "/ok", settings) as base:
        yield base


@pytest.fixture(scope="module")
def site() -> Generator[str]:
    with serving("--assistants", ASSISTANT, CHAT_PAUSE="0.02") as base:
        yield base


@pytest.fixture(scope="module")
def desk() -> Generator[str]:
    """The graph of examples/langgraph, with this page."""
    pytest.importorskip("langgraph", reason="NOT RUN: needs the extra langgraph")
    with serving(str(ROOT / "examples" / "langgraph"), DESK_PAUSE="0.01") as base:
        yield base


def finished(page: Page) -> None:
    """The run has ended, and the history of the thread is read."""
    expect(stop(page)).to_have_count(0, timeout=LONG)
    expect(page.get_by_role("button", name="Again").last).to_be_visible()


def complete_run(page: Page, text: str, last: int) -> None:
    before = answers(page).count()
    send(page, text)
    expect(answers(page)).to_have_count(before + 1)
    expect(answers(page).last).to_have_text(numbers(last), timeout=LONG)
    finished(page)


@pytest.fixture
def page(page: Page, site: str) -> Page:
    page.goto(f"{site}/page/")
    return page


def test_readme_names_the_command() -> None:
    text = (ROOT / "examples" / "chat" / "README.md").read_text(encoding="utf-8")
    assert f"coordinator dev --assistants {ASSISTANT} --page {PAGE.relative_to(ROOT)}\n" in text


def test_tokens_are_shown_as_they_are_emitted(page: Page) -> None:
    with growing_to(page, numbers(60), finished):
        send(page, "count to 60")
        expect(stop(page)).to_be_visible()
    expect(questions(page)).to_have_text(["count to 60"])
    expect(page.get_by_role("alert")).to_have_count(0)
    complete_run(page, "count to 5", 5)
    expect(answers(page)).to_have_text([numbers(60), numbers(5)])


def test_stop_keeps_the_partial_answer(page: Page) -> None:
    send(page, "count to 400")
    expect(answers(page)).to_contain_text("12 13")
    stop(page).click()
    finished(page)
    partial = answers(page).inner_text().strip()
    assert "400" not in partial.split()
    assert numbers(400).startswith(partial)
    page.reload()
    expect(answers(page)).to_have_text([partial])
    complete_run(page, "count to 3", 3)
    expect(answers(page)).to_have_text([partial, numbers(3)])


def test_reload_joins_the_running_answer_without_losing_or_doubling_tokens(page: Page) -> None:
    send(page, "count to 200")
    expect(answers(page)).to_contain_text("7 8")
    page.reload()
    expect(stop(page)).to_be_visible()
    with growing_to(page, numbers(200), finished):
        expect(answers(page)).to_contain_text("1 2 3")
    expect(answers(page)).to_have_count(1)
    expect(questions(page)).to_have_text(["count to 200"])


def test_run_of_a_thread_that_was_reopened_can_be_stopped(page: Page) -> None:
    complete_run(page, "count to 4", 4)
    page.reload()
    expect(answers(page)).to_have_text([numbers(4)])
    send(page, "count to 400")
    expect(answers(page).last).to_contain_text("7 8")
    stop(page).click()
    finished(page)
    expect(questions(page)).to_have_text(["count to 4", "count to 400"])
    assert "400" not in answers(page).last.inner_text().split()


def test_edited_and_regenerated_messages_are_versions(page: Page) -> None:
    complete_run(page, "count to 3", 3)
    complete_run(page, "count to 4", 4)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit the message").fill("count to 5")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text([numbers(5)])
    finished(page)
    expect(questions(page)).to_have_text(["count to 5"])
    versions = page.get_by_role("group", name="Versions")
    expect(versions).to_contain_text(["2 of 2", "2 of 2"])
    versions.first.get_by_label("Previous version").click()
    expect(answers(page)).to_have_text([numbers(3), numbers(4)])
    complete_run(page, "count to 6", 6)  # continues the version that is shown
    expect(answers(page)).to_have_text([numbers(3), numbers(4), numbers(6)])
    versions.first.get_by_label("Next version").click()
    expect(answers(page)).to_have_text([numbers(5)])
    page.get_by_role("button", name="Again").click()
    expect(versions.last).to_contain_text("3 of 3", timeout=LONG)
    expect(answers(page)).to_have_text([numbers(5)])
    expect(questions(page)).to_have_text(["count to 5"])
    page.reload()
    expect(answers(page)).to_have_text([numbers(5)])
    expect(versions.last).to_contain_text("3 of 3")


def test_messages_are_queued_while_a_run_is_in_progress(page: Page) -> None:
    send(page, "count to 400")
    expect(answers(page)).to_contain_text("1 2")
    queue = page.get_by_label("Queue", exact=True).get_by_role("listitem")
    for number in (3, 4, 5):
        send(page, f"count to {number}")
    expect(queue).to_have_text([f"count to {number}×" for number in (3, 4, 5)])
    queue.filter(has_text="count to 4").get_by_label("Remove from the queue").click()
    expect(queue).to_have_count(2)
    stop(page).click()
    expect(answers(page).last).to_have_text(numbers(5), timeout=LONG)
    expect(queue).to_have_count(0)
    finished(page)
    expect(questions(page)).to_have_text(["count to 400", "count to 3", "count to 5"])


def test_two_tabs_show_the_same_thread(page: Page) -> None:
    send(page, "count to 150")
    expect(answers(page)).to_contain_text("1 2")
    other = page.context.new_page()
    other.goto(page.url)
    expect(stop(other)).to_be_visible()  # joined the run of the first tab
    for tab in (page, other):
        expect(answers(tab)).to_have_text([numbers(150)], timeout=LONG)
        finished(tab)
    complete_run(other, "count to 5", 5)
    expect(answers(page)).to_have_text([numbers(150), numbers(5)], timeout=LONG)
    other.reload()  # its stream is closed, because the thread is at rest
    expect(answers(other)).to_have_count(2)
    complete_run(page, "count to 6", 6)
    expect(answers(other)).to_have_text([numbers(150), numbers(5), numbers(6)], timeout=LONG)
    expect(questions(other)).to_have_text(["count to 150", "count to 5", "count to 6"])


def test_threads_are_listed_with_their_status(page: Page) -> None:
    threads = page.get_by_role("navigation", name="Threads")
    complete_run(page, "count to 7", 7)
    threads.get_by_role("button", name="New chat").click()
    expect(questions(page)).to_have_count(0)
    send(page, "count to 150")
    expect(threads.locator("[aria-current]")).to_have_text("count to 150answering")
    threads.get_by_role("button", name="count to 7").first.click()
    expect(answers(page)).to_have_text([numbers(7)])
    threads.get_by_role("button", name="count to 150").first.click()
    expect(answers(page)).to_have_text([numbers(150)], timeout=LONG)


def test_question_of_a_function_is_answered_after_a_reload(page: Page) -> None:
    decision = page.get_by_role("region", name="Decision")
    send(page, "count to 2000")
    expect(decision).to_contain_text("Count to 2000?")
    expect(page.get_by_label("Your message")).to_be_disabled()
    page.reload()
    decision.get_by_role("button", name="Reject").click()
    expect(answers(page)).to_have_text(["As you wish."])
    finished(page)
    expect(decision).to_have_count(0)
    send(page, "count to 3000")
    decision.get_by_role("button", name="Approve").click()
    expect(answers(page).last).to_contain_text("1 2 3")
    stop(page).click()
    finished(page)
    expect(questions(page)).to_have_text(["count to 2000", "count to 3000"])


def test_question_of_a_graph_is_answered(page: Page, desk: str) -> None:
    page.goto(f"{desk}/page/?assistant=desk")
    decision = page.get_by_role("region", name="Decision")
    send(page, "count to 60")
    expect(answers(page)).to_have_text([numbers(60)])
    finished(page)
    for name, answer in (("Approve", "250 € are on their way"), ("Reject", "The refund was not approved")):
        send(page, "refund 250 for order 1042")
        expect(decision).to_contain_text("Refunds above 100 € need your approval")
        page.reload()
        decision.get_by_role("button", name=name).click()
        expect(answers(page).last).to_contain_text(answer, timeout=LONG)
        expect(decision).to_have_count(0)
        finished(page)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit the message").fill("count to 5")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text([numbers(5)], timeout=LONG)
    finished(page)
    expect(questions(page)).to_have_text(["count to 5"])


def test_refused_question_stays_in_the_input_field(page: Page) -> None:
    complete_run(page, "count to 3", 3)
    page.context.set_offline(True)
    send(page, "count to 4")
    expect(page.get_by_role("alert")).to_be_visible(timeout=LONG)
    expect(page.get_by_label("Your message")).to_have_value("count to 4")
    page.context.set_offline(False)
    page.keyboard.press("Enter")
    expect(answers(page).last).to_have_text(numbers(4), timeout=LONG)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(questions(page)).to_have_text(["count to 3", "count to 4"])
