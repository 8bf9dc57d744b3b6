"""What the pages of the examples have in common for a test that reads and clicks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, expect

LONG = 30_000  # ms

OBSERVE = """() => {
  window.seen = [];
  const note = () => {
    const answer = [...document.querySelectorAll("li.ai .text")].at(-1);
    if (answer) window.seen.push(answer.textContent);
  };
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""
"""Notes each text of the last answer in `window.seen`."""


def numbers(last: int) -> str:
    """Returns the answer to "count to `last`"."""
    return " ".join(map(str, range(1, last + 1)))


def send(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def stop(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop", exact=True)


def questions(page: Page) -> Locator:
    return page.locator("li.human .text")


def answers(page: Page) -> Locator:
    return page.locator("li.ai .text")


@contextmanager
def growing_to(page: Page, whole: str, finished: Callable[[Page], None]) -> Generator[None]:
    """Whatever is shown of the last answer meanwhile is a beginning of `whole`, and it grows.
    `finished`: waits for the end of the run."""
    page.evaluate(OBSERVE)
    yield
    expect(answers(page).last).to_have_text(whole, timeout=LONG)
    finished(page)
    seen: list[str] = page.evaluate("window.seen")
    assert [text for text in seen if not whole.startswith(text.strip())] == []
    lengths = [len(text.strip()) for text in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 5
