"""Assistants that clients create, on workers that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from coordinator import RunContext
from coordinator.gateway.caller import Role
from tests.support.asgi import key_for, serving
from tests.support.gateways import Served, gateways, new_thread
from tests.support.waiting import wait_until


async def echo(ctx: RunContext) -> dict[str, Any]:
    """Returns what it got."""
    return {"config": ctx.request.config, "context": ctx.request.context, "by": "echo"}


async def endless(ctx: RunContext) -> None:
    await asyncio.Event().wait()


async def other(ctx: RunContext) -> dict[str, Any]:
    return {"by": "other"}


@pytest_asyncio.fixture
async def team(tmp_path: Path) -> AsyncGenerator[list[Served]]:
    agents = {"echo": echo, "other": other, "endless": endless}
    async with gateways(2, tmp_path, None, uuid4().hex, agents=lambda: agents) as both:
        yield both


async def ids(sdk: Any, **query: Any) -> list[str]:
    return [each["assistant_id"] for each in await sdk.assistants.search(**query)]


async def test_created_assistant_is_known_to_all_workers(team: list[Served]) -> None:
    a, b = team
    made = await a.sdk.assistants.create(
        "echo", context={"style": "brief"}, metadata={"team": "x"}, name="Brief", description="short answers"
    )
    assert (made["version"], made["graph_id"], made["name"]) == (1, "echo", "Brief")
    assert made["context"] == made["config"]["configurable"] == {"style": "brief"}
    assert await b.sdk.assistants.get(made["assistant_id"]) == made
    schemas = await b.sdk.assistants.get_schemas(made["assistant_id"])
    assert schemas["graph_id"] == "echo"
    assert (await b.sdk.assistants.get_graph(made["assistant_id"]))["nodes"]


async def test_run_has_the_configuration_and_names_its_assistant(team: list[Served]) -> None:
    a, b = team
    made = await a.sdk.assistants.create(
        "echo",
        config={"tags": ["t"], "recursion_limit": 7},
        context={"style": "brief", "lang": "en"},
    )
    known, thread = made["assistant_id"], await new_thread(b.sdk)
    values = await b.sdk.runs.wait(thread, known, input={}, context={"lang": "de"}, config={"tags": ["u"]})
    assert values["context"] == {"style": "brief", "lang": "de"}
    assert values["config"]["tags"] == ["t", "u"]
    assert values["config"]["recursion_limit"] == 7
    (run,) = await a.sdk.runs.list(thread)
    assert run["assistant_id"] == known
    assert run["metadata"] == {"assistant_id": known, "assistant_version": 1}
    assert (await a.sdk.threads.get(thread))["metadata"] == {"graph_id": "echo", "assistant_id": known}
    for metadata in ({"graph_id": "echo"}, {"assistant_id": known}):
        assert [each["thread_id"] for each in await a.sdk.threads.search(metadata=metadata)] == [thread]
    assert (await a.sdk.threads.get_state(thread))["values"]["by"] == "echo"


async def test_configurable_of_a_request_takes_precedence(team: list[Served]) -> None:
    a, b = team
    new = await a.sdk.assistants.create("echo", context={"style": "brief", "lang": "en"})
    request = {"configurable": {"lang": "de"}}
    values = await b.sdk.runs.wait(None, new["assistant_id"], config=request)
    assert values["context"] is None
    assert values["config"]["configurable"] == {"style": "brief", "lang": "de"}
    old = await a.sdk.assistants.create("echo", config={"configurable": {"style": "brief", "lang": "en"}})
    values = await b.sdk.runs.wait(None, old["assistant_id"], context={"lang": "de"})
    assert values["context"] == {"style": "brief", "lang": "de"}
    values = await b.sdk.runs.wait(None, old["assistant_id"], config=request)
    assert values["config"]["configurable"] == {"style": "brief", "lang": "de"}


async def test_client_cannot_pretend_that_its_run_has_a_created_assistant(team: list[Served]) -> None:
    a, _ = team
    thread = await new_thread(a.sdk)
    metadata = {"assistant_id": str(uuid4()), "assistant_version": 3}
    run = await a.sdk.runs.create(thread, "echo", metadata=metadata)
    assert run["assistant_id"] == a.manager.assistants.id_of("echo")
    assert run["metadata"] == {"assistant_id": metadata["assistant_id"]}


async def test_change_is_a_version_for_later_runs(team: list[Served]) -> None:
    a, b = team
    made = await a.sdk.assistants.create("echo", context={"style": "brief"}, metadata={"a": 1})
    known = made["assistant_id"]
    changed = await b.sdk.assistants.update(known, context={"style": "long"}, metadata={"b": 2}, name="Long")
    assert (changed["version"], changed["metadata"], changed["name"]) == (2, {"a": 1, "b": 2}, "Long")
    assert (await a.sdk.runs.wait(None, known))["context"] == {"style": "long"}
    versions = await a.sdk.assistants.get_versions(known)
    assert [(each["version"], each["context"]["style"]) for each in versions] == [(2, "long"), (1, "brief")]
    assert [each["version"] for each in await a.sdk.assistants.get_versions(known, metadata={"b": 2})] == [2]
    latest = await a.sdk.assistants.set_latest(known, 1)
    assert (latest["version"], latest["name"]) == (1, "Untitled")
    assert (await b.sdk.runs.wait(None, known))["context"] == {"style": "brief"}
    moved = await b.sdk.assistants.update(known, graph_id="other", config={"recursion_limit": 3})
    assert (moved["version"], moved["graph_id"], moved["context"]) == (3, "other", {"style": "brief"})
    assert (await a.sdk.runs.wait(None, known))["by"] == "other"
    with pytest.raises(NotFoundError, match="has no version 9: it has the versions 1 to 3"):
        await a.sdk.assistants.set_latest(known, 9)


async def test_queued_run_is_taken_over_with_the_configuration_of_its_admission(team: list[Served]) -> None:
    a, b = team
    made = (await a.sdk.assistants.create("echo", context={"style": "brief"}))["assistant_id"]
    thread = await new_thread(b.sdk)
    holder = (await b.sdk.runs.create(thread, "endless"))["run_id"]
    queued = (await a.sdk.runs.create(thread, made))["run_id"]
    await b.sdk.assistants.delete(made)
    await a.manager.shutdown(timeout=0)
    await b.sdk.runs.cancel(thread, holder, wait=True)
    values: Any = await b.sdk.runs.join(thread, queued)
    assert values["context"] == {"style": "brief"}
    assert (await b.sdk.runs.get(thread, queued))["assistant_id"] == made


async def test_existing_id(team: list[Served]) -> None:
    a, b = team
    known = str(uuid4())
    made = await a.sdk.assistants.create("echo", assistant_id=known)
    with pytest.raises(ConflictError, match="exists"):
        await b.sdk.assistants.create("other", assistant_id=known)
    assert await b.sdk.assistants.create("other", assistant_id=known, if_exists="do_nothing") == made


async def test_registered_assistants_cannot_be_changed(team: list[Served]) -> None:
    a, _ = team
    registered = a.manager.assistants.id_of("echo")
    for call in (
        a.sdk.assistants.update(registered, name="x"),
        a.sdk.assistants.delete("echo"),
        a.sdk.assistants.set_latest(registered, 1),
        a.sdk.assistants.create("other", assistant_id=registered),
    ):
        with pytest.raises(ConflictError, match="create an assistant with graph_id 'echo'"):
            await call
    same = await a.sdk.assistants.create("other", assistant_id=registered, if_exists="do_nothing")
    assert same == await a.sdk.assistants.get("echo")
    assert await a.sdk.assistants.get_versions("echo") == [same]


async def test_refusals(team: list[Served]) -> None:
    a, _ = team
    with pytest.raises(UnprocessableEntityError, match="graph_id: no assistant has the name or id 'no'"):
        await a.sdk.assistants.create("no")
    with pytest.raises(UnprocessableEntityError, match=r"context: excludes config\.configurable"):
        await a.sdk.assistants.create("echo", config={"configurable": {"a": 1}}, context={"b": 1})
    unknown = str(uuid4())
    for call in (
        a.sdk.assistants.update(unknown, name="x"),
        a.sdk.assistants.delete(unknown),
        a.sdk.assistants.delete("nameless"),
        a.sdk.assistants.get_versions(unknown),
        a.sdk.runs.create(None, unknown),
    ):
        with pytest.raises(NotFoundError, match=r"not found|no assistant has"):
            await call
    with pytest.raises(UnprocessableEntityError, match="no assistant has the name or id 'nameless'"):
        await a.sdk.runs.create(None, "nameless")


async def test_worker_refuses_runs_of_an_assistant_whose_graph_it_does_not_register(tmp_path: Path) -> None:
    registered = iter([{"echo": echo, "other": other}, {"other": other}])
    async with gateways(2, tmp_path, None, uuid4().hex, agents=lambda: next(registered)) as (a, b):
        made = await a.sdk.assistants.create("echo")
        with pytest.raises(ConflictError, match="needs the assistant 'echo', which is not registered here"):
            await b.sdk.runs.create(None, made["assistant_id"])


async def test_search_of_registered_and_created_ones(team: list[Served]) -> None:
    a, b = team
    made = [
        (await a.sdk.assistants.create("echo", name=name, metadata={"n": at}))["assistant_id"]
        for at, name in enumerate(("a", "f", "k", "z"))
    ]
    echo_id, endless_id, other_id = (
        a.manager.assistants.id_of(name) for name in ("echo", "endless", "other")
    )
    everything = [made[0], echo_id, endless_id, *made[1:3], other_id, made[3]]
    assert await ids(b.sdk, sort_by="name", sort_order="asc") == everything
    assert await ids(b.sdk, sort_by="name", sort_order="desc") == everything[::-1]
    assert await b.sdk.assistants.count() == 7
    for size in (1, 2, 4):
        listed, pages = list[str](), range(0, 7, size)
        for offset in pages:
            answer = await b.raw.post("/assistants/search", json={"limit": size, "offset": offset})
            listed += [each["assistant_id"] for each in answer.json()]
            assert answer.headers["x-pagination-total"] == "7"
            assert answer.headers.get("x-pagination-next") == (
                str(offset + size) if offset + size < 7 else None
            )
        assert listed == everything
    assert await ids(b.sdk, graph_id="other") == [other_id]
    assert await ids(b.sdk, graph_id=echo_id, metadata={"n": 1}) == [made[1]]
    assert await ids(b.sdk, name="Z") == [made[3]]
    assert await b.sdk.assistants.count(graph_id="echo") == 5
    (one,) = await b.sdk.assistants.search(name="k", select=["name", "version"])
    assert one == {"name": "k", "version": 1}


async def test_deletion_leaves_runs_and_removes_crons_and_requested_threads(team: list[Served]) -> None:
    a, b = team
    made, kept = [(await a.sdk.assistants.create("echo"))["assistant_id"] for _ in range(2)]
    thread, others = await new_thread(a.sdk), await new_thread(a.sdk)
    await a.sdk.runs.wait(thread, made)
    await a.sdk.runs.wait(others, kept)
    cron = await a.sdk.crons.create(made, schedule="0 0 1 1 *")
    await b.sdk.assistants.delete(made)
    with pytest.raises(NotFoundError):
        await a.sdk.assistants.get(made)
    with pytest.raises(NotFoundError):
        await a.sdk.runs.create(thread, made)
    assert (await a.sdk.runs.list(thread))[0]["assistant_id"] == made
    assert (await a.raw.get(f"/runs/crons/{cron['cron_id']}")).status_code == 404
    await b.sdk.assistants.delete(kept, delete_threads=True)
    assert [each["thread_id"] for each in await a.sdk.threads.search()] == [thread]


async def test_cron_of_a_created_assistant_fires_its_latest_version(team: list[Served]) -> None:
    a, b = team
    made = (await a.sdk.assistants.create("echo", context={"style": "brief"}))["assistant_id"]
    thread = await new_thread(a.sdk)
    cron: Any = await b.sdk.crons.create_for_thread(thread, made, schedule="0 0 1 1 *")
    assert cron["assistant_id"] == made
    assert [each["cron_id"] for each in await a.sdk.crons.search(assistant_id=made)] == [cron["cron_id"]]
    assert await a.sdk.crons.count(assistant_id=made) == 1
    await a.sdk.assistants.update(made, context={"style": "long"})
    row = await a.manager.crons.get(cron["cron_id"])
    assert await a.manager.crons.replace(replace(row, next_at=1)) is not None

    async def fired() -> bool:
        return bool((await a.sdk.threads.get(thread))["values"])

    await wait_until(fired, description="the cron has fired")
    values = (await a.sdk.threads.get(thread))["values"]
    assert values["context"] == {"style": "long"}
    (run,) = await b.sdk.runs.list(thread)
    assert (run["assistant_id"], run["metadata"]["assistant_version"]) == (made, 2)


async def test_assistants_of_other_users_do_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    alice, bob, admin = (
        key_for(file, Role.user, "alice"),
        key_for(file, Role.user, "bob"),
        key_for(file, Role.admin),
    )
    async with serving(api_keys=file) as (_, http):
        made = (await http.post("/assistants", json={"graph_id": "agent"}, headers=alice)).json()
        path = f"/assistants/{made['assistant_id']}"
        for method, where, body in (
            ("GET", path, None),
            ("PATCH", path, {"name": "x"}),
            ("DELETE", path, None),
            ("POST", f"{path}/versions", {}),
            ("POST", f"{path}/latest", {"version": 1}),
            ("GET", f"{path}/schemas", None),
            ("POST", "/runs", {"assistant_id": made["assistant_id"]}),
        ):
            answer = await http.request(method, where, json=body, headers=bob)
            assert answer.status_code == 404, (method, where)
        body = {"graph_id": "agent", "assistant_id": made["assistant_id"], "if_exists": "do_nothing"}
        assert (await http.post("/assistants", json=body, headers=bob)).status_code == 409
        counts = [
            (await http.post("/assistants/count", json={}, headers=key)).json() for key in (alice, bob, admin)
        ]
        assert counts == [2, 1, 2]
        assert (await http.get(path, headers=admin)).json() == made
