"""The page at /docs in a real browser, with a policy that forbids content of other servers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Request, async_playwright, expect

from coordinator.gateway.routes.documentation import FOLDER
from tests.support.browser import CHROMIUM, QUIET, needs_chromium
from tests.support.gateways import Served

HASHES = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""The files of the npm package, version 5.35.0."""


@pytest.mark.parametrize("name", HASHES)
def test_files_of_swagger_ui_are_those_of_its_release(name: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == HASHES[name]


def test_licence_of_swagger_ui_is_included() -> None:
    assert "Apache License" in (FOLDER / "swagger-ui.LICENSE.txt").read_text()
    assert "SmartBear" in (FOLDER / "swagger-ui.NOTICE.txt").read_text()


async def test_page_loads_nothing_from_other_servers(one: Served) -> None:
    async with httpx.AsyncClient(base_url=one.url) as client:
        page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
@needs_chromium
async def test_page_lists_routes_and_sends_requests_only_to_this_server(one: Served, tmp_path: Path) -> None:
    requested_urls: list[str] = []
    console: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith("data:"):
            requested_urls.append(request.url)

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await browser.new_page()
        page.on("request", note)
        page.on("console", lambda message: console.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: console.append(str(error)))
        await page.goto(f"{one.url}/docs")
        operation = page.locator(".opblock", has=page.locator('[data-path="/ok"]'))
        await expect(operation).to_be_visible(timeout=20_000)
        await operation.click()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        await expect(operation.locator(".live-responses-table")).to_contain_text('"ok": true')
        await browser.close()
    assert console == []
    assert {httpx.URL(url).netloc for url in requested_urls} == {httpx.URL(one.url).netloc}
