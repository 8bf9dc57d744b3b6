"""A web page that the gateway serves beside its API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from coordinator import RunManager, open_coordinator
from coordinator.errors import InvalidArgument
from coordinator.gateway import GatewaySettings, create_gateway, key_file
from coordinator.gateway.caller import Role
from coordinator.gateway.page import page_routes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "index.html": "<!doctype html><script src='assets/app.js'></script>",
        "assets/app.js": "start()",
        ".env": "SECRET=1",
        ".git/config": "",
    }.items():
        path = tmp_path / "dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "dist"


@asynccontextmanager
async def client_of(
    folder: Path | None, *, keys: Path | None = None, mounted_at: str = ""
) -> AsyncGenerator[httpx.AsyncClient]:
    async with open_coordinator("memory://") as manager:
        app = gateway_of(manager, folder, keys)
        if mounted_at:
            host = FastAPI()
            host.mount(mounted_at, app)
            app = host
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


def gateway_of(manager: RunManager, folder: Path | None, keys: Path | None) -> FastAPI:
    return create_gateway(manager, settings=GatewaySettings(page=folder, api_keys=keys, demo_assistant=False))


async def test_files_of_the_folder_are_served(folder: Path) -> None:
    async with client_of(folder) as client:
        page = await client.get("/page/")
        assert page.text.startswith("<!doctype html>")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        script = await client.get("/page/assets/app.js")
        assert script.text == "start()"
        assert script.headers["content-type"].startswith("text/javascript")
        assert (await client.head("/page/")).status_code == 200


@pytest.mark.parametrize("mounted_at", ["", "/api"])
async def test_short_addresses_lead_to_the_page(folder: Path, mounted_at: str) -> None:
    async with client_of(folder, mounted_at=mounted_at) as client:
        for path in ("/", "/page"):
            page = await client.get(mounted_at + path, follow_redirects=True)
            assert page.url.path == f"{mounted_at}/page/"
            assert page.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/page/.env", "/page/.git/config", "/page/../secret.txt", "/page/..%2fsecret.txt", "/page/none.js"],
)
async def test_no_other_file_is_served(folder: Path, path: str) -> None:
    async with client_of(folder) as client:
        assert (await client.get(path)).status_code == 404


async def test_page_needs_no_key_and_the_api_does(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key_file.create(keys, role=Role.admin, user_id=None)
    async with client_of(folder, keys=keys) as client:
        assert (await client.get("/page/assets/app.js")).status_code == 200
        assert (await client.post("/threads/search", json={})).status_code == 401


async def test_without_a_page_there_is_none(tmp_path: Path) -> None:
    async with client_of(None) as client:
        assert (await client.get("/page/")).status_code == 404
        assert (await client.get("/")).status_code == 404


def test_folder_must_have_a_page(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"has no index\.html: name the folder of the built page"):
        page_routes(tmp_path)


def test_folder_with_too_many_files_is_refused(folder: Path) -> None:
    for number in range(1000):
        (folder / f"{number}.js").touch()
    with pytest.raises(InvalidArgument, match="more than 1000 files"):
        page_routes(folder)
