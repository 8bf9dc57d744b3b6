"""Pages in a browser. A module that uses them has a fixture `site`, the URL of its page."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import CHROMIUM, QUIET

expect.set_options(timeout=20_000)
"""Milliseconds. A busy machine takes longer than the default of five seconds for a page."""


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(site: str, browser: Browser) -> Generator[Page]:
    """The page in a new browser context; an error in its own code fails the test."""
    failures: list[str] = []
    with browser.new_context(base_url=site) as person:
        page = person.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto("/")
        yield page
    assert failures == []
