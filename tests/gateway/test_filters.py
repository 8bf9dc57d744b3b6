"""Filters of searches are bounded, and a search ends when its client disconnects."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator import RunManager
from coordinator.gateway import create_gateway
from coordinator.settings import Settings
from stores.sqlite import SQLiteStore
from tests.support.asgi import serving
from tests.support.gateways import gateway_settings, served
from tests.support.inside_stores import connect_to
from tests.support.waiting import wait_until

TOO_MUCH: dict[str, Any] = {
    "bytes": {"a": "x" * 4096},
    "values": {f"k{number}": number for number in range(101)},
    "values, nested": {"a": {"b": [[number] * 20 for number in range(5)]}},
    "elements": {"a": [1] * 21},
}
ENOUGH: dict[str, Any] = {
    "bytes": {"a": "x" * 4000},
    "values": {f"k{number}": number for number in range(100)},
    "elements": {"a": [1] * 20},
    "empty": {},
}
PLACES = ("/threads/search", "/threads/count", "/assistants/search", "/assistants/count")
CRONS = ("/runs/crons/search", "/runs/crons/count")


@pytest.mark.parametrize("metadata", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_filter_that_is_too_large_is_refused(metadata: Any) -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        for path in (*PLACES, *CRONS, f"/threads/{thread}/history"):
            answer = await client.post(path, json={"metadata": metadata})
            assert answer.status_code == 422, path
        assert (await client.post("/threads/search", json={"values": metadata})).status_code == 422


@pytest.mark.parametrize("metadata", ENOUGH.values(), ids=ENOUGH)
async def test_filter_within_the_limits_is_used(metadata: Any) -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={"metadata": metadata})).json()["thread_id"]
        answer = await client.post("/threads/search", json={"metadata": metadata})
        assert [document["thread_id"] for document in answer.json()] == [thread]


def _costly(store: SQLiteStore, threads: int) -> dict[str, Any]:
    """Creates rows, and returns a filter that takes some milliseconds for each of them."""

    def fill(cx: Any) -> None:
        metadata = json.dumps({"abc": [{"a": 1}] * 3000})
        cx.execute(
            "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?)"
            " INSERT INTO threads (thread_id, user_id, fence, metadata, created_at, updated_at)"
            " SELECT 'costly ' || x, NULL, 0, ?, x, x FROM c",
            (threads, metadata),
        )

    with connect_to(store) as cx:
        fill(cx)
    cx.close()
    return {"abc": [{"b": number} for number in range(20)]}


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    return SQLiteStore(tmp_path / "runs.db", synchronous="NORMAL", search_timeout=3600)


async def test_search_is_stopped_when_its_client_disconnects(store: SQLiteStore) -> None:
    manager = RunManager(store, settings=Settings(tick=0.05, grace=0))
    gateway = create_gateway(manager, settings=gateway_settings({}))
    async with served(manager, gateway) as one, asyncio.timeout(50):
        searching = _costly(store, 2000)
        reads = store.reads

        async def leave(path: str) -> None:
            async with httpx.AsyncClient(base_url=one.url) as leaving:
                search = asyncio.ensure_future(leaving.post(path, json={"metadata": searching}, timeout=60))
                await wait_until(lambda: store.reads > reads, description="the search has started")
                search.cancel()
                await asyncio.wait((search,))

        await asyncio.gather(leave("/threads/search"), leave("/threads/count"))
        answer = await one.raw.post("/threads/search", json={"ids": ["0" * 32]}, timeout=40)
        assert answer.status_code == 200


async def test_search_that_takes_too_long_is_refused_with_a_hint(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db", synchronous="NORMAL", search_timeout=0.5)
    manager = RunManager(store, settings=Settings(tick=0.05, grace=0))
    async with serving(manager=manager) as (_, client):
        searching = _costly(store, 300)
        for path in ("/threads/search", "/threads/count"):
            answer = await client.post(path, json={"metadata": searching})
            assert answer.status_code == 422
            assert "search_timeout" in answer.json()["detail"]
            assert "retry-after" not in answer.headers
        assert (await client.post("/threads/search", json={"ids": ["0" * 32]})).status_code == 200
