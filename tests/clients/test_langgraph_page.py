"""The React page of examples/langgraph in a browser, served by the two commands that its README names."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from coordinator.servers.process import free_port
from tests.support.browser import needs_chromium
from tests.support.pages import LONG, answers, growing_to, numbers, questions, send, stop
from tests.support.served import _MAIN, environment
from tests.support.serving import started

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "langgraph"
COMMANDS = {
    "sqlite": ["-c", _MAIN, "dev", str(EXAMPLE), "--no-reload"],
    "postgresql": [str(EXAMPLE / "cluster.py"), "--grace", "0"],
}
"""One worker, and three behind one port."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), needs_chromium]


@pytest.fixture(scope="module", params=COMMANDS)
def site(request: pytest.FixtureRequest) -> Generator[str]:
    port = free_port()
    command = [sys.executable, *COMMANDS[request.param], "--port", str(port)]
    with started(command, f"http://127.0.0.1:{port}", "/ok", environment(DESK_PAUSE="0.01")) as base:
        yield base


def finished(page: Page) -> None:
    """The run has ended, and the state of the thread is shown."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=LONG)


def complete_run(page: Page, text: str) -> None:
    """Sends `text` and waits for the end of its run."""
    before = page.locator("li.human").count()
    send(page, text)
    expect(page.locator("li.human")).to_have_count(before + 1)
    expect(page.locator("li.ai .tools button").last).to_be_attached(timeout=LONG)
    finished(page)


def test_tokens_are_shown_as_they_are_emitted(page: Page) -> None:
    with growing_to(page, numbers(60), finished):
        send(page, "count to 60")
        expect(stop(page)).to_be_visible()
    expect(questions(page)).to_have_text(["count to 60"])
    expect(page.get_by_role("alert")).to_have_count(0)


def test_page_loads_nothing_from_other_hosts(page: Page, site: str) -> None:
    hosts: set[str] = set()
    violations: list[str] = []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("console", lambda message: violations.append(message.text) if "Policy" in message.text else None)
    page.reload()
    complete_run(page, "where is order 7?")
    assert hosts - {""} == {urlsplit(site).netloc}  # the icon is a data: URL
    assert violations == []


def test_stopped_run_continues_on_request(page: Page) -> None:
    send(page, "count to 400")
    expect(answers(page)).to_contain_text("7 8")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped before the answer was complete")).to_be_visible()
    finished(page)
    expect(answers(page)).to_contain_text("7 8")  # what was shown stays
    expect(page.get_by_role("navigation").locator("[aria-current]")).to_contain_text("stopped")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_contain_text("1 2 3")
    expect(stop(page)).to_be_visible()
    expect(questions(page)).to_have_text(["count to 400"])
    stop(page).click()  # again
    expect(page.get_by_text("Stopped before the answer was complete")).to_be_visible()


def test_own_run_is_not_joined_again_where_the_browser_is_slow(page: Page) -> None:
    """A slow browser handles the new thread after the first run on it has been created."""
    joins: list[str] = []
    page.on("request", lambda request: joins.append(request.url) if "/stream?" in request.url else None)
    session: Any = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    for _ in range(3):
        page.get_by_role("button", name="New chat").click()
        complete_run(page, "where is order 7?")
    expect(page.get_by_role("navigation").locator("[aria-current] .status")).to_have_text("")
    assert joins == []


def test_reload_joins_the_running_stream_without_losing_or_doubling_tokens(page: Page) -> None:
    send(page, "count to 300")
    expect(answers(page)).to_contain_text("7 8")
    page.reload()
    expect(stop(page)).to_be_visible()
    with growing_to(page, numbers(300), finished):
        expect(answers(page)).to_contain_text("1 2 3")
    expect(answers(page)).to_have_count(1)
    expect(questions(page)).to_have_text(["count to 300"])


def test_edited_message_is_a_version_beside_the_first(page: Page) -> None:
    complete_run(page, "count to 3")
    complete_run(page, "count to 4")
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit the message").fill("count to 5")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text([numbers(5)])
    finished(page)
    expect(questions(page)).to_have_text(["count to 5"])
    versions = page.get_by_role("group", name="Versions")
    expect(versions).to_contain_text("2 of 2")
    versions.get_by_label("Previous version").click()
    expect(answers(page)).to_have_text([numbers(3), numbers(4)])
    complete_run(page, "count to 6")  # continues the version that is shown
    expect(answers(page)).to_have_text([numbers(3), numbers(4), numbers(6)])
    versions.get_by_label("Next version").click()
    expect(answers(page)).to_have_text([numbers(5)])
    page.get_by_role("button", name="Again").click()
    expect(versions).to_contain_text(["2 of 2", "2 of 2"])
    expect(answers(page)).to_have_text([numbers(5)])


def refund(page: Page) -> Locator:
    send(page, "refund 250 for order 1042")
    question = page.get_by_role("region", name="Approval")
    expect(question).to_contain_text("Refunds above 100 € need your approval")
    expect(page.get_by_label("Your message")).to_be_disabled()
    return question


def test_approved_tool_call_is_executed(page: Page) -> None:
    question = refund(page)
    page.reload()  # the run has paused and holds no worker
    expect(question).to_be_visible()
    expect(question.get_by_role("button", name="Approve")).to_be_focused()
    page.keyboard.press("Enter")
    expect(answers(page).last).to_have_text("250 € are on their way back for order 1042.", timeout=LONG)
    expect(question).to_have_count(0)
    finished(page)
    expect(page.get_by_label("Your message")).to_be_focused()


def test_edited_tool_call_is_executed_as_edited(page: Page) -> None:
    question = refund(page)
    question.get_by_label("amount").fill("200")
    question.get_by_role("button", name="Approve the change").click()
    expect(answers(page).last).to_have_text("200 € are on their way back for order 1042.", timeout=LONG)
    finished(page)
    expect(page.locator("li.ai .call")).to_contain_text("amount 200")


def test_rejected_tool_call_is_not_executed(page: Page) -> None:
    question = refund(page)
    question.get_by_label("reason").fill("too late")
    question.get_by_role("button", name="Reject").click()
    expect(answers(page).last).to_have_text("The refund was not approved: too late.", timeout=LONG)
    finished(page)
    complete_run(page, "count to 3")  # the thread accepts the next run
    expect(answers(page).last).to_have_text(numbers(3))


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
    finished(page)
    expect(queue).to_have_count(0)
    expect(questions(page)).to_have_text(["count to 400", "count to 3", "count to 5"])


def test_two_tabs_show_the_same_thread(page: Page) -> None:
    send(page, "count to 300")
    expect(answers(page)).to_contain_text("1 2")
    other = page.context.new_page()
    other.goto(page.url)
    expect(stop(other)).to_be_visible()  # joined the run of the first tab
    for tab in (page, other):
        expect(answers(tab)).to_have_text([numbers(300)], timeout=LONG)
        finished(tab)
    complete_run(other, "count to 5")
    expect(answers(page)).to_have_text([numbers(300), numbers(5)], timeout=LONG)
    expect(questions(page)).to_have_text(["count to 300", "count to 5"])


def test_threads_are_listed_with_their_status(page: Page) -> None:
    threads = page.get_by_role("navigation", name="Threads")
    complete_run(page, "where is order 2?")
    page.keyboard.press("Alt+n")
    expect(questions(page)).to_have_count(0)
    refund(page)
    expect(threads.locator("[aria-current]")).to_have_text("refund 250 for order 1042waits for you")
    threads.get_by_role("button", name="New chat").click()
    send(page, "count to 300")
    expect(threads.locator("[aria-current]")).to_have_text("count to 300answering")
    threads.get_by_role("button", name="where is order 2?").click()
    expect(answers(page).last).to_have_text("Order 2 left the warehouse and arrives on Friday.")
    threads.get_by_role("button", name="count to 300").first.click()
    expect(answers(page)).to_have_text([numbers(300)], timeout=LONG)


def test_steps_of_the_subgraph_are_shown(page: Page) -> None:
    steps = page.get_by_role("complementary", name="Steps")
    send(page, "research return policies")
    inner = steps.locator("[data-depth='1'] .name")
    expect(inner).to_have_text(["plan", "read", "read", "read", "write"], timeout=LONG)
    finished(page)
    expect(steps.locator("[data-depth='0'] .name")).to_have_text(["answer", "research", "answer"])
    expect(steps.locator("li.done")).to_have_count(8)
    expect(answers(page).last).to_contain_text("In short: 8 pages about return policies in the handbook")
    expect(page.locator("li.ai")).to_have_count(2)  # the messages of the subgraph are not among them
    page.reload()
    expect(inner).to_have_text(["plan", "read", "read", "read", "write"])  # from the checkpoints
    expect(steps.locator("li.done")).to_have_count(8)


def test_error_of_a_run_is_explained_and_can_be_retried(page: Page) -> None:
    send(page, "crash")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The run failed: the model does not answer")
    finished(page)
    with page.expect_response("**/runs/stream") as again:
        alert.get_by_role("button", name="Try again").click()
    body = again.value.request.post_data or "{}"
    assert json.loads(body)["input"] is None  # continues at the node that has failed
    finished(page)
    expect(alert).to_contain_text("The run failed")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("count to 3")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text([numbers(3)], timeout=LONG)
    expect(alert).to_have_count(0)


def test_unreachable_server_is_named(page: Page) -> None:
    page.context.set_offline(True)
    send(page, "count to 3")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server cannot be reached", timeout=LONG)
    page.context.set_offline(False)
    send(page, "count to 4")
    # The first one did not reach the server; it is shown only until the thread's own messages arrive.
    expect(answers(page)).to_have_text([numbers(4)], timeout=LONG)
    expect(questions(page)).to_have_text(["count to 4"])
    finished(page)
    expect(alert).to_have_count(0)


def test_page_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 740})
    complete_run(page, "where is order 7?")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Threads", exact=True).click()
    expect(page.get_by_role("button", name="New chat")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="New chat")).not_to_be_visible()
    page.get_by_role("button", name="Steps", exact=True).click()
    expect(page.get_by_role("complementary").get_by_text("tools")).to_be_in_viewport(ratio=1)
