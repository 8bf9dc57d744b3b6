"""Lists of large items: pages are bounded in bytes and name the offset of the next page; a history is
streamed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator import RunManager, open_coordinator
from coordinator.settings import Settings
from stores.errors import StoreUnavailable
from stores.sqlite import SQLiteStore
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.asgi import serving
from tests.support.gateways import gateways

LARGE = "x" * 40_000
BOUND = 100_000
"""A page has room for two items, not for three."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[Any]:
    async with serving(manager=_on(tmp_path), max_page_bytes=BOUND) as (_, client):
        yield client


def _on(folder: Path, **settings: Any) -> RunManager:
    store = SQLiteStore(folder / "runs.db", synchronous="NORMAL")
    return RunManager(store, settings=Settings(tick=0.05, grace=0, **settings))


async def all_pages(client: Any, path: str, request_body: dict[str, Any]) -> list[list[Any]]:
    documents: list[list[Any]] = []
    while True:
        answer = await client.post(path, json=request_body)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) <= BOUND + len(LARGE)
        documents.append(answer.json())
        after = answer.headers.get("x-pagination-next")
        if after is None:
            return documents
        request_body = {**request_body, "offset": int(after)}


async def test_search_of_large_threads_is_paginated(client: Any) -> None:
    threads = set[str]()
    for _ in range(5):
        thread = (await client.post("/threads", json={"metadata": {"a": 1}})).json()["thread_id"]
        updated = await client.post(f"/threads/{thread}/state", json={"values": {"text": LARGE}})
        assert updated.status_code == 200, updated.text
        threads.add(thread)
    documents = await all_pages(client, "/threads/search", {"metadata": {"a": 1}, "limit": 1000})
    assert [len(page) for page in documents] == [2, 2, 1]
    assert {thread["thread_id"] for page in documents for thread in page} == threads
    total = await client.post("/threads/search", json={"limit": 1000})
    assert total.headers["x-pagination-total"] == "5"
    one = await client.post("/threads/search", json={"limit": 1})
    assert one.headers["x-pagination-next"] == "1"


async def test_item_larger_than_a_page_is_returned(client: Any) -> None:
    thread = (await client.post("/threads", json={})).json()["thread_id"]
    await client.post(f"/threads/{thread}/state", json={"values": {"text": LARGE * 3}})
    answer = await client.post("/threads/search", json={})
    assert len(answer.json()) == 1
    assert "x-pagination-next" not in answer.headers


async def test_runs_with_selected_large_inputs_are_paginated(client: Any) -> None:
    thread = (await client.post("/threads", json={})).json()["thread_id"]
    for _ in range(5):
        run = {"assistant_id": "agent", "input": {"steps": 0}, "context": {"text": LARGE}}
        assert (await client.post(f"/threads/{thread}/runs/wait", json=run)).status_code == 200
    path = f"/threads/{thread}/runs?limit=100"
    short = await client.get(path)
    assert [run["kwargs"] for run in short.json()] == [{}] * 5
    assert "x-pagination-next" not in short.headers
    offset, sizes = 0, list[int]()
    while True:
        answer = await client.get(f"{path}&select=kwargs&offset={offset}")
        assert all(run["kwargs"]["context"]["text"] == LARGE for run in answer.json())
        sizes.append(len(answer.json()))
        if "x-pagination-next" not in answer.headers:
            break
        offset = int(answer.headers["x-pagination-next"])
    assert sizes == [2, 2, 1]


async def test_crons_with_large_inputs_are_paginated(client: Any) -> None:
    cron = {
        "assistant_id": "agent",
        "schedule": "0 0 1 1 *",
        "context": {"text": LARGE},
        "metadata": {"a": 1},
    }
    for _ in range(3):
        assert (await client.post("/runs/crons", json=cron)).status_code == 200
    documents = await all_pages(client, "/runs/crons/search", {"metadata": {"a": 1}, "limit": 1000})
    assert [len(page) for page in documents] == [2, 1]


@asynccontextmanager
async def _large_history(folder: Path, **gateway: Any) -> AsyncGenerator[tuple[Any, str]]:
    """Yields the client and the path of a history that is larger than a page."""

    def agents() -> dict[str, Any]:
        return {"graph": GraphLikeAssistant(CheckpointStates(folder / "checkpoints.db"), name="graph")}

    async with gateways(1, folder, None, "pages", agents=agents, max_page_bytes=BOUND, **gateway) as (one,):
        client = one.raw
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        run = {"assistant_id": "graph"}
        assert (await client.post(f"/threads/{thread}/runs/wait", json=run)).status_code == 200
        for number in range(5):
            update = {"values": {f"k{number}": LARGE}}
            assert (await client.post(f"/threads/{thread}/state", json=update)).status_code == 200
        yield client, f"/threads/{thread}/history"


async def test_history_of_large_states_is_complete(tmp_path: Path) -> None:
    async with _large_history(tmp_path) as (client, path):
        answer = await client.post(path, json={"limit": 1000})
        assert answer.headers["content-type"] == "application/json"
        assert len(answer.content) > 5 * BOUND
        ids = [state["checkpoint_id"] for state in answer.json()]
        assert len(ids) == len(set(ids)) > 5
        small = await client.post(path, json={"limit": 1000, "select": ["checkpoint_id"]})
        assert small.json() == [{"checkpoint_id": one} for one in ids]
        assert [one["checkpoint_id"] for one in (await client.post(path, json={"limit": 4})).json()] == ids[
            :4
        ]


async def test_large_history_counts_as_an_open_response(tmp_path: Path) -> None:
    async with _large_history(tmp_path, max_streams=1) as (client, path):
        for _ in range(2):
            assert len((await client.post(path, json={"limit": 1000})).json()) > 5


async def test_history_that_breaks_off_is_an_error_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = GraphLikeAssistant.history

    async def broken(self: GraphLikeAssistant, *args: Any, **options: Any) -> AsyncGenerator[Any]:
        sent = 0
        async for view in whole(self, *args, **options):
            if sent == 4:
                raise StoreUnavailable("gone")
            sent += 1
            yield view

    async with _large_history(tmp_path) as (client, path):
        monkeypatch.setattr(GraphLikeAssistant, "history", broken)
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await client.post(path, json={"limit": 1000})


async def test_values_of_a_thread_are_bounded(tmp_path: Path) -> None:
    async with serving(manager=_on(tmp_path, max_values_bytes=BOUND)) as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        path = f"/threads/{thread}/state"
        answers = [await client.post(path, json={"values": {f"k{at}": LARGE}}) for at in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 422]
        assert "max_values_bytes" in answers[2].text
        held = (await client.get(path)).json()["values"]
        assert sorted(held) == ["k0", "k1"]
        step = {"updates": [{"as_node": "agent", "values": {f"k{at}": LARGE}} for at in range(3)]}
        assert (await client.post("/threads", json={"supersteps": [step]})).status_code == 422
        assert len((await client.post("/threads/search", json={})).json()) == 1


async def test_a_run_that_returns_too_large_values_ends_as_an_error(tmp_path: Path) -> None:
    async def saves(ctx: Any) -> None:
        await ctx.save({"text": LARGE * 3})

    async def returns(_: Any) -> dict[str, str]:
        return {"text": LARGE * 3}

    async with open_coordinator(
        settings=Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", max_values_bytes=BOUND, grace=0),
        assistants={"saves": saves, "returns": returns},
    ) as manager:
        for name in ("saves", "returns"):
            run = await manager.create_or_reject(name, name)
            manager.launch(run)
            with pytest.raises(Exception, match="max_values_bytes"):
                await manager.wait(run.run_id)
            thread = await manager.threads.get(name)
            assert not thread.values
    with closing(sqlite3.connect(tmp_path / "runs.db")) as cx:
        assert cx.execute('SELECT max(length("values")) FROM threads').fetchone() in ((None,), (2,))
