"""The user of a run: every worker that executes it gives its graph the same user, and no client sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import operator
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from typing_extensions import TypedDict

from coordinator import RunManager, Settings
from coordinator.bootstrap import store_from_url
from coordinator.langgraph import GraphAssistant, sqlite_states
from coordinator.langgraph.auth import AuthHandlers
from coordinator.langgraph.extension import Extension
from coordinator.langgraph.runtime import ServerRuntime
from coordinator.schemas import User
from stores.webhooks import WebhookStore
from tests.support.asgi import serving
from tests.support.builders import row_of
from tests.support.inside import assembly_of
from tests.support.postgres import Database
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

SHORT: dict[str, Any] = {"renew": 0.2, "lease_ttl": 0.8, "lease_margin": 0.3, "sweep": 0.1}
ANN = User("ann", ("mail:send", "secret-right"), {"team": "secret-team", "level": 3, "tags": ["x", None]})
SEEN = ["ann", ["mail:send", "secret-right"], "secret-team", 3, ["x", None]]
Open = Callable[..., RunManager]


class State(TypedDict, total=False):
    seen: Annotated[list[Any], operator.add]


class Graphs:
    """Graphs of two nodes, each of which notes its user, or only that it has one. The second waits until
    `free` is set, and sets `waits`."""

    def __init__(self) -> None:
        self.notes_user = True
        self.waits, self.free = asyncio.Event(), asyncio.Event()

    def factory(self, runtime: ServerRuntime) -> Any:
        """The rights that the factory sees are those of the nodes."""
        given = None if runtime.user is None else runtime.user.permissions

        async def first(_: State, config: RunnableConfig) -> State:
            return self.note(config, given)

        async def second(_: State, config: RunnableConfig) -> State:
            self.waits.set()
            await self.free.wait()
            return self.note(config, given)

        builder: Any = StateGraph(State)
        builder.add_node("first", first)
        builder.add_node("second", second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        return builder

    def note(self, config: Any, given: Any) -> State:
        user = seen(config, given)
        return {"seen": [user if self.notes_user else user == SEEN]}

    async def at_second(self) -> None:
        async with asyncio.timeout(10):
            await self.waits.wait()


def seen(config: Any, given: Any) -> list[Any]:
    keys = config["configurable"]
    user = keys["langgraph_auth_user"]
    assert keys["langgraph_auth_permissions"] == user.permissions == given
    return [user.identity, user.permissions, *(user[name] for name in ("team", "level", "tags"))]


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(
    request: pytest.FixtureRequest, tmp_path: Path, shared_postgres: Database, graphs: Graphs
) -> AsyncGenerator[Open]:
    """Makes workers that share a store and checkpoints."""
    async with AsyncExitStack() as stack:
        if request.param == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            where: dict[str, Any] = {"store": url, "postgres_schema": schema}
        else:
            where = {"store": f"sqlite:///{tmp_path / 'runs.db'}"}

        def worker(**settings: Any) -> RunManager:
            states = sqlite_states(tmp_path / "checkpoints.db", synchronous="NORMAL")
            graph = GraphAssistant(graphs.factory, states, name="g")
            chosen: dict[str, Any] = {**QUICK, "lease_ttl": 30.0, **settings, **where}
            given = Settings(**chosen)
            return RunManager(store_from_url(given.store, given), settings=given, assistants={"g": graph})

        yield worker


@asynccontextmanager
async def pair(opened: Open, **settings: Any) -> AsyncGenerator[tuple[RunManager, RunManager]]:
    async with opened(**settings) as a, opened(**settings) as b:
        yield a, b


async def begun(manager: RunManager, thread: str = "t", **more: Any) -> str:
    record = await manager.create_or_reject(thread, "g", user=ANN, kwargs={"input": {"seen": []}}, **more)
    manager.launch(record)
    return record.run_id


# -- every way to another worker


async def test_waiting_run_that_starts_elsewhere_has_its_user(opened: Open, graphs: Graphs) -> None:
    graphs.free.set()
    async with pair(opened) as (a, b):
        holder = await b.create_or_reject("t", user_id="ann")
        run_id = await begun(a, multitask_strategy="enqueue")
        await a.shutdown(timeout=0)
        await b.set_status(holder.run_id, "success")
        assert await b.wait(run_id, timeout=20) == {"seen": [SEEN, SEEN]}


async def test_graph_of_a_dead_worker_continues_with_its_user(opened: Open, graphs: Graphs) -> None:
    async with pair(opened, **SHORT) as (a, b):
        run_id = await begun(a)
        await graphs.at_second()
        graphs.waits.clear()
        await assembly_of(a).loops.stop()
        await assembly_of(a).pacemaker.stop()
        await graphs.at_second()
        graphs.free.set()
        assert await b.wait(run_id, timeout=20) == {"seen": [SEEN, SEEN]}
        assert (await row_of(b.store, run_id)).attempt == 2


async def test_handed_over_graph_continues_with_its_user(opened: Open, graphs: Graphs) -> None:
    async with pair(opened) as (a, b):
        run_id = await begun(a)
        await graphs.at_second()
        graphs.waits.clear()
        await a.shutdown(timeout=0.2)
        await graphs.at_second()
        graphs.free.set()
        assert await b.wait(run_id, timeout=20) == {"seen": [SEEN, SEEN]}


async def test_child_has_the_user_of_its_parent_on_this_worker_and_on_another(
    opened: Open, graphs: Graphs
) -> None:
    graphs.free.set()
    async with pair(opened) as (a, b):
        parent = await a.create_or_reject("parent", user=ANN)
        for manager in (a, b):
            child = await manager.create_or_reject(
                f"child of {manager.worker.epoch}",
                "g",
                user_id="ann",
                parent_run_id=parent.run_id,
                kwargs={"input": {"seen": []}},
            )
            manager.launch(child)
            assert await manager.wait(child.run_id, timeout=20) == {"seen": [SEEN, SEEN]}
        other = User("ann", ("own",))
        child = await a.create_or_reject("own", user=other, parent_run_id=parent.run_id)
        assert (await row_of(a.store, child.run_id)).user_document == {
            "permissions": ["own"],
            "attributes": {},
        }
        plain = await a.create_or_reject("plain", parent_run_id=parent.run_id)
        assert (await row_of(a.store, plain.run_id)).user_document is None, "it is no run of this user"


# -- over HTTP


def auth(given: dict[str, User]) -> Extension:
    """`given`: what the function returns at this time for each name in the header."""
    functions = Auth()

    @functions.authenticate
    async def authenticate(authorization: str) -> dict[str, Any]:
        user = given[authorization]
        return {"identity": user.user_id, "permissions": [*user.permissions], **user.attributes}

    return Extension(handlers=AuthHandlers(functions, "auth.path", 5))


BODY: dict[str, Any] = {"assistant_id": "g", "input": {"seen": []}}


async def test_cron_that_another_worker_fires_has_the_user_of_its_last_change(
    opened: Open, graphs: Graphs
) -> None:
    graphs.free.set()
    users = {"ann": User("ann", ("old",), {"team": "old", "level": 1, "tags": []})}
    headers = {"authorization": "ann"}
    async with (
        serving(manager=opened(), extension=auth(users), headers=headers) as (_, client),
        opened() as other,
    ):
        made = (await client.post("/runs/crons", json={**BODY, "schedule": "0 0 1 1 *"})).json()
        assert (await other.crons.get(made["cron_id"])).user_document == {
            "permissions": ["old"],
            "attributes": {"team": "old", "level": 1, "tags": []},
        }
        users["ann"] = ANN
        body = {"on_run_completed": "keep"}
        changed = (await client.patch(f"/runs/crons/{made['cron_id']}", json=body)).json()
        assert not secrets(changed)
        assert not secrets((await client.post("/runs/crons/search", json={})).json())
        assert not secrets((await client.get(f"/runs/crons/{made['cron_id']}")).json())
    manager = opened()
    async with serving(manager=manager, extension=auth({})):
        cron = await manager.crons.get(made["cron_id"])
        assert await manager.crons.replace(replace(cron, next_at=1)) is not None

        async def fired() -> bool:
            return (await manager.crons.get(made["cron_id"])).last_run_id is not None

        await wait_until(fired, description="the cron is fired")
        run_id = (await manager.crons.get(made["cron_id"])).last_run_id
        assert run_id is not None
        assert await manager.wait(run_id, timeout=20) == {"seen": [SEEN, SEEN]}


async def test_user_that_is_too_large_to_be_kept_is_refused(opened: Open) -> None:
    users = {
        "ann": User("ann", ("p" * 16_000,), {"team": "t" * 1000}),
        "ben": User("ben", ("p" * 16_000,)),
    }
    async with serving(manager=opened(), extension=auth(users), headers={"authorization": "ann"}) as served:
        for path, body in (("/runs", BODY), ("/runs/crons", {**BODY, "schedule": "0 0 1 1 *"})):
            refused = await served[1].post(path, json=body)
            assert refused.status_code == 422, refused.text
            assert "a run keeps at most 16384" in refused.json()["detail"]
            accepted = await served[1].post(path, json=body, headers={"authorization": "ben"})
            assert accepted.status_code == 200, accepted.text


async def test_attributes_that_are_no_json_are_the_same_text_on_every_worker(opened: Open) -> None:
    class Seat:
        def __str__(self) -> str:
            return "seat 4"

    async with pair(opened) as (a, b):
        attributes: dict[str, Any] = {"seat": Seat()}
        run = await a.create_or_reject("t", user=User("ann", (), attributes))
        row = await row_of(b.store, run.run_id)
        assert row.user_document == {"permissions": [], "attributes": {"seat": "seat 4"}}


# -- what is not shown


def secrets(shown: Any) -> bool:
    return "secret-" in (shown if isinstance(shown, str) else json.dumps(shown, default=repr))


async def test_no_answer_stream_or_log_line_shows_the_user(
    opened: Open, graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:
    graphs.free.set()
    graphs.notes_user = False
    caplog.set_level(logging.DEBUG)
    body: dict[str, Any] = {
        **BODY,
        "input": {},
        "stream_mode": ["updates", "debug", "checkpoints", "tasks", "events"],
    }
    manager = opened()
    extension = auth({"ann": ANN})
    async with serving(manager=manager, extension=extension, headers={"authorization": "ann"}) as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        streamed = await client.post(f"/threads/{thread}/runs/stream", json=body)
        assert streamed.status_code == 200, streamed.text
        run = (await client.get(f"/threads/{thread}/runs")).json()[0]
        answers: list[Any] = [streamed.text, run]
        for path in ("", f"/runs/{run['run_id']}", f"/runs/{run['run_id']}/join", "/state", "/history"):
            method = "POST" if path == "/history" else "GET"
            filters: dict[str, Any] | None = {} if method == "POST" else None
            answer = await client.request(method, f"/threads/{thread}{path}", json=filters)
            assert answer.status_code == 200
            answers.append(answer.text)
        assert answers[4] == '{"seen":[true,true]}'
        explained = await manager.runs.explain(run["run_id"])
        answers += [await manager.get(run["run_id"]), await manager.list_by_thread(thread), explained]
        answers += [await manager.store.get(run["run_id"]), await manager.store.row(run["run_id"])]
        shown = [answer for answer in answers if secrets(answer)]
        assert shown == []
        assert not secrets(caplog.text)


async def test_webhook_does_not_contain_the_user(opened: Open, graphs: Graphs) -> None:
    graphs.free.set()
    graphs.notes_user = False
    async with opened() as manager:
        run_id = await begun(manager, webhook="https://example.org/hook")
        await manager.wait(run_id, timeout=20)
        store = manager.store
        assert isinstance(store, WebhookStore)
        [claimed] = await store.claim_webhooks(epoch=manager.worker.epoch or 0, limit=1, lease=60)
        assert claimed.run["values"] == {"seen": [True, True]}
        assert not secrets(claimed.run)
