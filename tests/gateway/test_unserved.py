"""Routes of LangGraph's API that are not served are refused by name, unlike wrong paths."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncGenerator
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk.errors import NotFoundError
from starlette.routing import Match

from coordinator.gateway import Gateway
from coordinator.gateway.unserved import UNSERVED
from tests.support.asgi import serving
from tests.support.gateways import Sdk, one_gateway


@pytest.fixture
async def served() -> AsyncGenerator[tuple[Gateway, httpx.AsyncClient]]:
    async with serving() as both:
        yield both


def filled(path: str) -> str:
    return re.sub(r"\{\w+\}", str(uuid4()), path)


@pytest.mark.parametrize(("name", "method", "path"), UNSERVED)
async def test_unserved_route_is_refused_by_name(
    served: tuple[Gateway, httpx.AsyncClient], name: str, method: str, path: str
) -> None:
    gateway, http = served
    scope = {"type": "http", "method": method, "path": filled(path), "root_path": ""}
    if any(route.matches(scope)[0] is Match.FULL for route in gateway.routes):
        pytest.skip(f"{name} is served")
    answer = await http.request(method, scope["path"])
    assert answer.status_code == 404
    assert answer.json() == {"detail": f"{name} ({method} {path}) of LangGraph's API is not served here"}


async def test_sdk_raises_the_name_of_an_unserved_route() -> None:
    async with one_gateway() as gateway:
        sdk: Sdk = gateway.sdk
        with pytest.raises(NotFoundError, match=r"MCP .*is not served"):
            await sdk.http.post("/mcp", json={})


async def test_wrong_path_is_distinguished_from_an_unserved_route(
    served: tuple[Gateway, httpx.AsyncClient],
) -> None:
    _, http = served
    wrong = await http.get("/thread/1")
    assert (wrong.status_code, wrong.json()) == (
        404,
        {"detail": "no route GET '/thread/1' exists: see /openapi.json"},
    )
    other = await http.put("/threads/search")
    assert other.status_code == 405
    assert other.headers["allow"] == "DELETE, GET, PATCH, POST", "those of /threads/{thread_id}, too"
    assert (await http.put("/threads/t/runs")).headers["allow"] == "GET, POST"
    assert other.json()["detail"].startswith("PUT is not served on '/threads/search'")
    forged = await http.get("/x%0a%1b[31m")
    assert "\n" not in forged.json()["detail"]


@pytest.mark.parametrize("path", ["/runs/wait", "/threads", "/threads/search", "/store/items/search"])
async def test_compressed_bodies_are_refused_by_name(
    served: tuple[Gateway, httpx.AsyncClient], path: str
) -> None:
    _, http = served
    body, headers = gzip.compress(b"{}"), {"content-type": "application/json", "content-encoding": "gzip"}
    refused = await http.post(path, content=body, headers=headers)
    assert refused.status_code == 415
    assert refused.json()["detail"] == "Content-Encoding 'gzip' is not supported: send the body without it"
    assert refused.headers["accept-encoding"] == "identity"
    plain = await http.post("/threads", content=b"{}", headers=headers | {"content-encoding": "identity"})
    assert plain.status_code == 200
