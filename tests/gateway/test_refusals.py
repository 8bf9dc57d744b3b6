"""Refusals contain no traceback and no input of the client, and are never a 500."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from coordinator import RunManager, Settings
from coordinator.errors import StoreUnavailable
from coordinator.gateway import Gateway
from stores.memory import MemoryStore
from tests.gateway.conftest import Pair
from tests.support.asgi import serving
from tests.support.gateways import Served, demo, new_thread, start_running
from tests.support.waiting import wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture
async def served() -> AsyncGenerator[tuple[Gateway, httpx.AsyncClient]]:
    async with serving() as both:
        yield both


@pytest.fixture
def http(served: tuple[Gateway, httpx.AsyncClient]) -> httpx.AsyncClient:
    return served[1]


HOSTILE_JSON: list[bytes] = [
    b"",
    b"{bad",
    b"[]",
    b"null",
    b'"text"',
    b"1",
    b"\xff\xfe{}",
    b'{"assistant_id": "\xff"}',
    b'{"assistant_id": "\\ud800"}',
    b'{"assistant_id": "agent", "input": {"a": "\\udfff"}}',
    b'{"assistant_id": "agent", "metadata": {"\\ud800": 1}}',
    b'{"assistant_id": "a\\u0000"}',
    b'{"assistant_id": "agent", "input": NaN}',
    b'{"assistant_id": "agent", "input": 1e999}',
    b'{"assistant_id": "agent", "input": -1' + b"0" * 400 + b".5}",
    b'{"assistant_id": "agent", "input": 1' + b"0" * 5000 + b"}",
    b'{"assistant_id": "agent", "input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"assistant_id": "agent", "metadata": ' + b'{"a":' * 190 + b"1" + b"}" * 190 + b"}",
    b'{"assistant_id": "agent", "metadata": {"a": "\\u0000"}}',
    b'{"assistant_id": "agent", "after_seconds": 1e308}',
    b'{"assistant_id": "agent", "limit": "x"',
    b'{"assistant_id": {"$ne": null}}',
    b'{"thread_id": "../x"}',
    b'{"metadata": {"a\' OR 1=1 --": 1}}',
    b'{"metadata": {"$.a[0]": 1, "a\\"b": 2, "": 3}}',
    b'{"ids": ["%s"], "limit": 100000000000000000000}',
    b'{"sort_by": "user_id; DROP TABLE runs"}',
    b'{"values": {"a": 1}, "checkpoint_id": "' + b"x" * 10_000 + b'"}',
]

HOSTILE_PATHS = [
    "/threads/..%2f..%2fetc",
    "/threads/%00",
    "/threads/%ff",
    "/threads/" + "a" * 5000,
    "/threads/{id}%0a",
    "/threads/{id}/",
    "/threads/{id}/runs/%2e%2e",
    "/threads/{id}/runs/{id}%23",
    "/threads//runs",
    "/threads/{id}/state/%00",
    "/threads/{id}/state/%ff",
    "/threads/{id}/state/" + "x" * 3000,
    "/threads/{id}/runs?limit=99999999999999999999999",
    "/threads/{id}/runs?status=%00&select=%ff",
    "/threads/{id}?include=%ff",
    "/assistants/%00",
    "/assistants/%ed%a0%80",
    "/runs/{id}/stream?stream_mode=%5b%5b",
    "/nowhere",
]


async def test_unknown_assistant_is_refused_with_a_list_of_assistants(http: httpx.AsyncClient) -> None:
    answer = await http.post("/runs", json={"assistant_id": "agnet"})
    assert answer.status_code == 422
    assert "'agnet'" in answer.json()["detail"]
    assert "'agent'" in answer.json()["detail"]
    answer = await http.get("/assistants/agnet")
    assert (answer.status_code, "'agent'" in answer.text) == (404, True)


class TestHostile:
    async def test_hostile_requests_cause_no_500_on_any_route(
        self, served: tuple[Gateway, httpx.AsyncClient]
    ) -> None:
        gateway, http = served
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        run = (await http.post(f"/threads/{thread}/runs", json={"assistant_id": "agent"})).json()["run_id"]
        yearly = {"assistant_id": "agent", "schedule": "0 0 1 1 *"}
        cron = (await http.post("/runs/crons", json=yearly)).json()["cron_id"]
        places = {"thread_id": thread, "run_id": run, "cron_id": cron}
        posts = [
            str(route.path).format(**places, checkpoint_id="c", assistant_id="agent")
            for route in iter_route_contexts(gateway.routes)
            if {"POST", "PATCH"} & (route.methods or set()) and not str(route.path).startswith("/coordinator")
        ]
        assert len(posts) > 15
        for path in posts:
            for method in ("POST", "PATCH"):
                for content in HOSTILE_JSON:
                    answer = await http.request(method, path, content=content, headers=JSON)
                    refused = answer.status_code < 500 or answer.status_code == 501
                    assert refused, (method, path, content[:80], answer.text)
                    assert "Traceback" not in answer.text
        for content in HOSTILE_JSON[:17]:
            answer = await http.post(f"/threads/{thread}/runs", content=content, headers=JSON)
            assert answer.status_code == 422, content[:80]
            assert answer.json()["detail"]

    async def test_hostile_paths_cause_no_500(self, http: httpx.AsyncClient) -> None:
        for path in HOSTILE_PATHS:
            for method in ("GET", "POST", "DELETE", "PATCH", "PUT"):
                answer = await http.request(method, path.replace("{id}", str(uuid4())))
                assert answer.status_code < 500, (method, path, answer.text)
                assert "Traceback" not in answer.text

    async def test_random_requests_cause_no_500(self, http: httpx.AsyncClient) -> None:
        seed = random.randrange(2**32)
        chance = random.Random(seed)
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        keys = ["assistant_id", "input", "metadata", "ids", "limit", "offset", "values", "stream_mode", "ttl"]
        things: list[Any] = [None, True, 0, -1, 10**25, 1.5, "", "x" * 300, "\x00", "\xe9", [], {}]
        paths = [f"/threads/{thread}/runs", "/threads", "/threads/search", "/runs/batch", "/runs/cancel"]
        for number in range(300):
            body = {chance.choice(keys): chance.choice(things) for _ in range(4)}
            content: Any = [body] if chance.random() < 0.2 else body
            path = chance.choice([*paths, f"/threads/{thread}/state", f"/threads/{thread}/history"])
            answer = await http.post(path, content=json.dumps(content), headers=JSON)
            assert answer.status_code < 500, f"seed {seed}, request {number}: {path} {content} {answer.text}"

    async def test_refusals_do_not_repeat_the_input(self, http: httpx.AsyncClient) -> None:
        secret = "sk-very-secret"
        for body in ({"metadata": secret}, {"input": {"steps": secret}}):
            answer = await http.post("/runs", json={"assistant_id": "agent", **body})
            assert answer.status_code == 422
            assert secret not in answer.text

    async def test_invalid_json_is_refused(self, http: httpx.AsyncClient) -> None:
        for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/xml"}):
            answer = await http.post("/threads", content=b'{"metadata": {}}', headers=headers)
            assert answer.status_code == 422


async def test_foreign_and_missing_resources_have_equal_responses(http: httpx.AsyncClient) -> None:
    missing = str(uuid4())
    first = await http.get(f"/threads/{missing}")
    second = await http.get(f"/threads/{missing}")
    assert (first.status_code, first.content) == (404, second.content)


class TestConflicts:
    async def test_conflict_names_the_run_in_flight(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        run = await start_running(one.sdk, thread, sleep=60)
        body = {"assistant_id": "agent", "multitask_strategy": "reject"}
        answer = await one.raw.post(f"/threads/{thread}/runs", json=body)
        assert answer.status_code == 409
        assert answer.json()["run_id"] == run
        assert "retry-after" not in answer.headers

    async def test_full_queue_is_refused(self) -> None:
        manager = RunManager(settings=Settings(max_waiting_per_thread=1, grace=0))
        async with serving(manager=manager) as (_, http):
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            body = {"assistant_id": "agent", "input": demo(sleep=60)}
            answers = [await http.post(f"/threads/{thread}/runs", json=body) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert answers[-1].headers["retry-after"] == "1"


READS = frozenset({"thread", "row", "run", "threads"})
WRITES = frozenset({"admit", "create_thread", "decide", "finish"})


class FailingStore(MemoryStore):
    """A store with a part that can be made unavailable."""

    away: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name in READS | WRITES and name in self.away:

            async def unavailable(*args: object, **kwargs: object) -> Any:
                raise StoreUnavailable("the store is away")

            return unavailable
        return attribute


class TestAway:
    async def test_requests_are_refused_while_the_store_is_unavailable(self) -> None:
        store = FailingStore()
        manager = RunManager(store, settings=Settings(tick=0.05, grace=0))
        async with serving(manager=manager) as (_, http):
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            store.away = READS | WRITES
            body = {"assistant_id": "agent"}
            requests: list[tuple[str, str, Any]] = [
                ("POST", "/threads", {}),
                ("GET", f"/threads/{thread}", None),
                ("POST", "/threads/search", {}),
                ("POST", f"/threads/{thread}/runs", body),
                ("POST", f"/threads/{thread}/runs/stream", body),
                ("POST", f"/threads/{thread}/runs/wait", body),
                ("POST", "/runs", body),
                ("GET", f"/threads/{thread}/runs/{uuid4()}", None),
                ("GET", f"/threads/{thread}/runs/{uuid4()}/join", None),
            ]
            for method, path, content in requests:
                answer = await http.request(method, path, json=content)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
                assert re.fullmatch(r"[^\n]{1,300}", answer.json()["detail"])
            store.away = frozenset()
            assert (await http.get(f"/threads/{thread}")).status_code == 200

    async def test_waits_continue_through_a_store_outage(self) -> None:
        store = FailingStore()
        manager = RunManager(store, settings=Settings(tick=0.05, grace=0))
        async with serving(manager=manager) as (gateway, http):
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            body = {"assistant_id": "agent", "input": demo(sleep=0.1)}
            waiting = asyncio.create_task(http.post(f"/threads/{thread}/runs/wait", json=body))
            await wait_until(
                lambda: gateway.state.services.watchers.open == 1, description="the request waits"
            )
            store.away = READS | WRITES
            await asyncio.sleep(0.2)  # longer than the run: the length of the outage is tested
            assert not waiting.done()
            store.away = frozenset()
            assert (await waiting).json()["log"] == ["run:1"]

    async def test_result_known_to_the_worker_is_not_read_from_the_store(self) -> None:
        store = FailingStore()
        async with serving(manager=RunManager(store, settings=Settings(grace=0))) as (gateway, http):
            body = {"assistant_id": "agent", "input": demo(sleep=0.2)}
            waiting = asyncio.create_task(http.post("/runs/wait", json=body))
            await wait_until(
                lambda: gateway.state.services.watchers.open == 1, description="the request waits"
            )
            store.away = READS
            assert (await waiting).json()["log"] == ["run:1"]


async def test_draining_worker_refuses_new_runs_and_still_cancels(two: Pair) -> None:
    local, remote = two
    thread = await new_thread(local.sdk)
    run = await start_running(local.sdk, thread, sleep=60)
    draining = asyncio.create_task(local.manager.worker.drain(30))
    await wait_until(lambda: local.manager.worker.draining, description="the worker drains")
    body = {"assistant_id": "agent"}
    for path in ("/runs", "/runs/wait", "/runs/stream", f"/threads/{thread}/runs"):
        answer = await local.raw.post(path, json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
    assert (await remote.sdk.runs.wait(None, "agent", input=demo(tag="x")))["log"] == ["x:1"]
    stopped = await local.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    assert stopped.status_code == 200
    await draining


async def test_paths_work_under_a_prefix(tmp_path: Path) -> None:
    """Locations are relative to the root of the API: clients append them to their base URL."""
    from fastapi import FastAPI
    from langgraph_sdk import get_client

    async with serving() as (gateway, _):
        host = FastAPI()
        host.mount("/api/v1", gateway)
        sdk: Any = get_client(url="http://localhost:2024/api/v1", api_key=None)
        await sdk.aclose()
        transport = httpx.ASGITransport(host)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:2024/api/v1") as client:
            thread = (await client.post("/threads", json={})).json()["thread_id"]
            answer = await client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "agent"})
            assert answer.headers["location"].startswith("/threads/")
            assert (await client.get(answer.headers["location"])).json() == answer.json()
