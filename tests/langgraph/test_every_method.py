"""Every public method of LangGraph's client on three workers: what one has written, the others return.

A method of a newer version of the client needs a driver here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from langgraph_sdk.errors import NotFoundError

from coordinator.servers.valkey import ValkeyServer
from tests.langgraph import graphs
from tests.langgraph.client_team import KINDS, Team, team_of
from tests.support.gateways import Sdk
from tests.support.postgres import Database
from tests.support.waiting import wait_until
from tools import langgraph_api

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

Driver = Callable[[Sdk, Sdk, Sdk], Awaitable[None]]
DRIVERS: dict[str, Driver] = {}
YEARLY = "0 0 1 1 *"


def drives(*methods: str) -> Callable[[Driver], Driver]:
    def register(driver: Driver) -> Driver:
        DRIVERS.update(dict.fromkeys(methods, driver))
        return driver

    return register


def made() -> dict[str, Any]:
    return {
        "chain": graphs.chain("a", "b"),
        "asking": graphs.asking("one"),
        "nested": graphs.nested(),
        "waiting": graphs.Waiting().graph,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def team(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
) -> AsyncGenerator[Team]:
    folder = tmp_path_factory.mktemp("runs")
    async with team_of(request.param, folder, shared_valkey, shared_postgres, made) as (a, b, c):
        yield a.sdk, b.sdk, c.sdk


INPUT: dict[str, Any] = {"log": []}


async def thread(sdk: Sdk, **metadata: Any) -> str:
    return (await sdk.threads.create(metadata=metadata))["thread_id"]


async def names(parts: Any) -> list[str]:
    async with aclosing(parts):
        return [part.event async for part in parts]


# -- assistants


@drives("assistants.create", "assistants.get", "assistants.get_schemas", "assistants.get_graph")
async def create_assistant(a: Sdk, b: Sdk, c: Sdk) -> None:
    made = await a.assistants.create("chain", name="brief", context={"style": "brief"})
    known = made["assistant_id"]
    assert await b.assistants.get(known) == made
    assert (await c.assistants.get_schemas(known))["graph_id"] == "chain"
    assert len((await c.assistants.get_graph(known, xray=True))["nodes"]) == 4
    assert (await b.runs.wait(None, known, input=INPUT))["log"] == ["a", "b"]


@drives("assistants.get_subgraphs")
async def subgraphs(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = (await a.assistants.create("nested"))["assistant_id"]
    (name,) = await b.assistants.get_subgraphs(known)
    assert list(await c.assistants.get_subgraphs(known, namespace=name, recurse=True)) == [name]


@drives("assistants.search", "assistants.count")
async def search_assistants(a: Sdk, b: Sdk, c: Sdk) -> None:
    metadata = {"key": uuid4().hex}
    made = await a.assistants.create("chain", metadata=metadata)
    assert await b.assistants.search(metadata=metadata) == [made]
    page = await c.assistants.search(graph_id="chain", limit=1, sort_by="name", response_format="object")
    assert len(page["assistants"]) == 1
    assert page["next"] == "1"
    assert await c.assistants.count(metadata=metadata) == 1


@drives("assistants.update", "assistants.get_versions", "assistants.set_latest", "assistants.delete")
async def change_assistant(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = (await a.assistants.create("chain"))["assistant_id"]
    assert (await b.assistants.update(known, graph_id="nested", name="other"))["version"] == 2
    assert [each["version"] for each in await c.assistants.get_versions(known)] == [2, 1]
    assert (await c.assistants.set_latest(known, 1))["graph_id"] == "chain"
    assert (await a.assistants.get(known))["version"] == 1
    await b.assistants.delete(known)
    for sdk in (a, b, c):
        with pytest.raises(NotFoundError):
            await sdk.assistants.get(known)


# -- threads


@drives("threads.create", "threads.get", "threads.update", "threads.search", "threads.count")
async def threads(a: Sdk, b: Sdk, c: Sdk) -> None:
    metadata = {"key": uuid4().hex}
    known = await thread(a, **metadata)
    assert (await b.threads.get(known))["metadata"] == metadata
    await c.threads.update(known, metadata={"more": 1})
    (row,) = await b.threads.search(metadata=metadata)
    assert (row["thread_id"], row["metadata"]["more"]) == (known, 1)
    assert await a.threads.count(metadata=metadata) == 1


@drives("threads.get_state", "threads.update_state", "threads.get_history", "threads.copy", "threads.delete")
async def states(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = await thread(a)
    await a.runs.wait(known, "chain", input=INPUT)
    assert (await b.threads.get_state(known))["values"]["log"] == ["a", "b"]
    await c.threads.update_state(known, {"log": ["c"]})
    newest, *older = await a.threads.get_history(known)
    assert newest["values"]["log"] == ["a", "b", "c"]
    former = await b.threads.get_state(known, checkpoint=older[0]["checkpoint"])
    assert former["values"]["log"] == ["a", "b"]
    copy = (await c.threads.copy(known))["thread_id"]
    await b.threads.delete(known)
    with pytest.raises(NotFoundError):
        await a.threads.get(known)
    assert (await a.threads.get_state(copy))["values"]["log"] == ["a", "b", "c"]


@drives("threads.prune")
async def prune(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = [await thread(a) for _ in range(2)]
    assert await b.threads.prune(known) == {"pruned_count": 2}
    with pytest.raises(NotFoundError):
        await c.threads.get(known[0])
    kept, paused = [await thread(a) for _ in range(2)]
    for log in (["x"], ["y"]):
        await a.runs.wait(kept, "chain", input={"log": log})
    await a.runs.wait(paused, "asking", input=INPUT)
    states = [await a.threads.get_state(one) for one in (kept, paused)]
    assert await b.threads.prune([kept, paused], strategy="keep_latest") == {"pruned_count": 2}
    no_parent = {"parent_checkpoint": None, "parent_checkpoint_id": None}
    for one, state in zip((kept, paused), states, strict=True):
        assert await c.threads.get_history(one) == [{**state, **no_parent}]
        assert (await c.threads.get(one))["status"] == ("idle" if one == kept else "interrupted")
    assert (await c.runs.wait(kept, "chain", input={"log": ["z"]}))["log"] == [
        "x",
        "a",
        "b",
        "y",
        "a",
        "b",
        "z",
        "a",
        "b",
    ]
    assert "__interrupt__" not in await a.runs.wait(paused, "asking", command={"resume": "yes"})


@drives("threads.join_stream")
async def join_thread(a: Sdk, b: Sdk, c: Sdk) -> None:
    """From the beginning, because the client sends the request with the first read: the run may be over."""
    known = await thread(a)
    async with aclosing(await b.threads.join_stream(known, last_event_id="-1")) as parts:
        run = await c.runs.create(known, "chain", input=INPUT, stream_resumable=True)
        async for part in parts:
            if part.event == "metadata" and part.data.get("status") == "run_done":
                assert part.data["run_id"] == run["run_id"]
                return
    pytest.fail("the stream has ended before the run")


@drives("threads.stream")
async def stream_thread(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = await thread(a)
    async with (
        b.threads.stream(known, assistant_id="asking") as paused,
        c.threads.stream(known, assistant_id="asking") as watching,
    ):
        await paused.run.start(input=INPUT)
        await wait_until(lambda: paused.interrupted, description="the run pauses")
        (interrupt,) = paused.interrupts
        await paused.run.respond("yes", interrupt_id=interrupt["interrupt_id"])
        assert await watching.output == {"log": ["one=yes", "note"]}


# -- runs


@drives("runs.create", "runs.get", "runs.list", "runs.join", "runs.delete")
async def runs(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = await thread(a)
    run = (await a.runs.create(known, "chain", input=INPUT))["run_id"]
    assert (await b.runs.join(known, run))["log"] == ["a", "b"]
    assert (await c.runs.get(known, run))["status"] == "success"
    assert [each["run_id"] for each in await b.runs.list(known)] == [run]
    await c.runs.delete(known, run)
    assert await a.runs.list(known) == []
    assert (await a.runs.create(None, "chain", input=INPUT))["status"] == "pending"


@drives("runs.wait")
async def wait(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = await thread(a)
    paused = await b.runs.wait(known, "asking", input=INPUT)
    assert "__interrupt__" in paused
    assert (await c.runs.wait(known, "asking", command={"resume": 1}))["log"] == ["one=1", "note"]
    assert (await c.runs.wait(None, "chain", input=INPUT))["log"] == ["a", "b"]


@drives("runs.stream", "runs.join_stream")
async def stream(a: Sdk, b: Sdk, c: Sdk) -> None:
    known = await thread(a)
    modes = ["updates"]
    assert await names(a.runs.stream(known, "chain", input=INPUT, stream_mode=modes)) == [
        "metadata",
        "updates",
        "updates",
    ]
    assert "values" in await names(b.runs.stream(None, "chain", input=INPUT))
    run = await b.runs.create(known, "chain", input=INPUT, stream_mode=modes, stream_resumable=True)
    joined = await names(c.runs.join_stream(known, run["run_id"], last_event_id="-1"))
    assert joined.count("updates") == 2


@drives("runs.create_batch")
async def batch(a: Sdk, b: Sdk, c: Sdk) -> None:
    made = await a.runs.create_batch([{"assistant_id": "chain", "input": INPUT}] * 3)
    assert len({run["run_id"] for run in made}) == 3


@drives("runs.cancel", "runs.cancel_many")
async def cancel(a: Sdk, b: Sdk, c: Sdk) -> None:
    for many in (False, True):
        known = await thread(a)
        run = (await a.runs.create(known, "waiting", input=INPUT))["run_id"]
        if many:
            await b.runs.cancel_many(thread_id=known, run_ids=[run])
        else:
            await b.runs.cancel(known, run, wait=True)
        await c.runs.join(known, run)
        assert (await c.runs.get(known, run))["status"] == "interrupted"


# -- crons


@drives("crons.create", "crons.create_for_thread", "crons.search", "crons.count", "crons.delete")
async def crons(a: Sdk, b: Sdk, c: Sdk) -> None:
    known, metadata = await thread(a), {"key": uuid4().hex}
    made = [
        await a.crons.create("chain", schedule=YEARLY, metadata=metadata),
        await b.crons.create_for_thread(known, "chain", schedule=YEARLY, metadata=metadata),
    ]
    assert await c.crons.count(metadata=metadata) == 2
    (row,) = await c.crons.search(thread_id=known)
    assert row["cron_id"] == made[1]["cron_id"]
    for cron in made:
        await c.crons.delete(cron["cron_id"])
    assert await a.crons.count(metadata=metadata) == 0


@drives("crons.update")
async def change_cron(a: Sdk, b: Sdk, c: Sdk) -> None:
    cron = (await a.crons.create("chain", schedule=YEARLY))["cron_id"]
    assert (await b.crons.update(cron, enabled=False))["enabled"] is False
    await c.crons.delete(cron)


# -- the store


@drives("store.put_item", "store.get_item", "store.delete_item")
async def items(a: Sdk, b: Sdk, c: Sdk) -> None:
    namespace = ["notes", uuid4().hex]
    await a.store.put_item(namespace, "k", {"n": 1}, ttl=60)
    assert (await b.store.get_item(namespace, "k", refresh_ttl=True))["value"] == {"n": 1}
    await c.store.delete_item(namespace, "k")
    assert await a.store.get_item(namespace, "k") is None


@drives("store.search_items", "store.list_namespaces")
async def search_items(a: Sdk, b: Sdk, c: Sdk) -> None:
    namespace = ["lists", uuid4().hex]
    for n in range(3):
        await a.store.put_item(namespace, f"k{n}", {"n": n, "even": n % 2 == 0})
    page = await b.store.search_items(namespace, filter={"even": True}, limit=10)
    assert sorted(item["key"] for item in page["items"]) == ["k0", "k2"]
    assert (await c.store.list_namespaces(prefix=namespace))["namespaces"] == [namespace]
    assert json.dumps(page)


@pytest.mark.parametrize("method", sorted(DRIVERS))
async def test_method(team: Team, method: str) -> None:
    await DRIVERS[method](*team)


async def test_every_method_has_a_driver() -> None:
    public = {f"{group}.{name}" for group, name in langgraph_api.methods()}
    assert public == set(DRIVERS)
