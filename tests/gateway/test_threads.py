"""Threads over HTTP: creation, search, changes, copies, removal."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk.errors import ConflictError, UnprocessableEntityError

from tests.gateway.conftest import Pair
from tests.support.asgi import serving
from tests.support.gateways import Served, demo, new_thread, start_running, until_gone


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with serving(max_metadata_bytes=1024) as (_, client):
        yield client


class TestCreate:
    async def test_created_thread_has_all_fields(self, plain: Pair) -> None:
        local, remote = plain
        made = await local.sdk.threads.create(metadata={"who": "me"}, graph_id="agent")
        assert made["metadata"] == {"who": "me", "graph_id": "agent"}
        assert (made["status"], made["values"], made["interrupts"], made["error"]) == ("idle", None, {}, None)
        assert made["created_at"] == made["updated_at"] == made["state_updated_at"]
        assert await remote.sdk.threads.get(made["thread_id"]) == made

    async def test_existing_thread_id_is_refused_or_returned(self, plain: Pair) -> None:
        local, remote = plain
        thread = str(uuid4())
        made = await local.sdk.threads.create(thread_id=thread.upper(), metadata={"n": 1})
        assert made["thread_id"] == thread
        with pytest.raises(ConflictError):
            await remote.sdk.threads.create(thread_id=thread)
        again = await remote.sdk.threads.create(thread_id=thread, if_exists="do_nothing", metadata={"n": 2})
        assert again == made

    async def test_supersteps_create_the_initial_state(self, one: Served) -> None:
        steps = [
            {"updates": [{"values": {"a": 1}, "as_node": "__start__"}]},
            {
                "updates": [
                    {"values": {"b": 2}, "as_node": "__start__"},
                    {"values": {"a": 3}, "as_node": "__start__"},
                ]
            },
        ]
        made = await one.sdk.threads.create(supersteps=steps)
        assert made["values"] == {"a": 3, "b": 2}
        with pytest.raises(UnprocessableEntityError):
            await one.sdk.threads.create(supersteps=[{"updates": [{"values": {}, "as_node": "nowhere"}]}])
        assert [t["thread_id"] for t in await one.sdk.threads.search()] == [made["thread_id"]]

    async def test_thread_is_removed_after_its_ttl(self, plain: Pair) -> None:
        local, remote = plain
        made = await local.sdk.threads.create(ttl=90)
        path = f"/threads/{made['thread_id']}"
        assert "ttl" not in (await remote.raw.get(path)).json()
        ttl = (await remote.raw.get(path, params={"include": "ttl"})).json()["ttl"]
        assert (ttl["strategy"], ttl["ttl_minutes"]) == ("delete", 90)
        assert ttl["expires_at"] > made["updated_at"]
        await remote.sdk.threads.update(made["thread_id"], metadata={}, ttl={"ttl": 0.1 / 60})
        await until_gone(remote.raw, path)


class TestChange:
    async def test_metadata_is_merged_key_by_key(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await local.sdk.threads.update(thread, metadata={"a": 1, "deep": {"x": 1}})
        changed = await remote.sdk.threads.update(thread, metadata={"b": 2, "deep": {"y": 2}})
        assert changed["metadata"] == {"a": 1, "b": 2, "deep": {"y": 2}}
        assert (await local.sdk.threads.get(thread))["metadata"] == changed["metadata"]

    async def test_return_minimal_has_no_body(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        answer = await one.raw.patch(
            f"/threads/{thread}", json={"metadata": {"a": 1}}, headers={"Prefer": "return=minimal"}
        )
        assert (answer.status_code, answer.content) == (204, b"")
        assert await one.sdk.threads.update(thread, metadata={"b": 2}, return_minimal=True) is None
        assert (await one.sdk.threads.get(thread))["metadata"] == {"a": 1, "b": 2}

    async def test_metadata_can_be_patched_while_a_run_is_in_flight(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await start_running(local.sdk, thread, sleep=60)
        assert (await remote.sdk.threads.update(thread, metadata={"a": 1}))["status"] == "busy"

    async def test_merged_metadata_is_bounded(self, http: httpx.AsyncClient) -> None:
        made = (await http.post("/threads", json={"metadata": {"a": "x" * 800}})).json()
        assert (await http.post("/threads", json={"metadata": {"a": "x" * 1100}})).status_code == 422
        path = f"/threads/{made['thread_id']}"
        assert (await http.patch(path, json={"metadata": {"b": "y" * 300}})).status_code == 422
        assert (await http.patch(path, json={"metadata": {"a": "y" * 300}})).status_code == 200
        body = {"assistant_id": "agent", "metadata": {"a": "x" * 1100}}
        assert (await http.post(f"{path}/runs", json=body)).status_code == 422


class TestPrune:
    async def test_threads_are_removed_on_any_worker(self, plain: Pair) -> None:
        local, remote = plain
        threads = [await new_thread(local.sdk) for _ in range(3)]
        await start_running(local.sdk, threads[0], sleep=60)
        gone = [threads[0], threads[1], threads[1], str(uuid4())]
        assert await remote.sdk.threads.prune(gone) == {"pruned_count": 2}
        assert [one["thread_id"] for one in await local.sdk.threads.search()] == [threads[2]]

    async def test_keep_latest_removes_former_states_on_any_worker(self, plain: Pair) -> None:
        local, remote = plain
        thread, other = await new_thread(local.sdk), await new_thread(local.sdk)
        for each in (thread, other):
            for tag in "ab":
                await local.sdk.runs.wait(each, "agent", input=demo(steps=1, tag=tag))
        head = (await local.sdk.threads.get_history(thread))[0]
        pruned = await remote.sdk.threads.prune([thread, str(uuid4())], strategy="keep_latest")
        assert pruned == {"pruned_count": 1}
        (kept,) = await remote.sdk.threads.get_history(thread)
        assert kept == {**head, "parent_checkpoint": None, "parent_checkpoint_id": None}
        assert len(await remote.sdk.threads.get_history(other)) == 4
        runs = await remote.sdk.runs.list(thread)
        assert [run["status"] for run in runs] == ["success"] * 2
        await remote.sdk.runs.wait(thread, "agent", input=demo(steps=1, tag="c"))
        latest, before, *_ = await local.sdk.threads.get_history(thread)
        assert latest["values"]["log"] == ["a:1", "b:1", "c:1"]
        assert before["values"] == kept["values"]

    async def test_keep_latest_leaves_the_question_of_a_paused_run(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await local.sdk.runs.wait(thread, "asker")
        state = await local.sdk.threads.get_state(thread)
        await remote.sdk.threads.prune([thread], strategy="keep_latest")
        kept = await local.sdk.threads.get_state(thread)
        assert kept == {**state, "parent_checkpoint": None, "parent_checkpoint_id": None}
        assert (await local.sdk.threads.get(thread))["status"] == "interrupted"
        assert await remote.sdk.runs.wait(thread, "asker", command={"resume": "yes"}) == {"answer": "yes"}

    async def test_keep_latest_of_a_thread_without_runs_changes_nothing(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        assert await one.sdk.threads.prune([thread], strategy="keep_latest") == {"pruned_count": 1}
        assert await one.sdk.threads.get_history(thread) == []

    async def test_keep_latest_of_a_busy_thread_is_a_conflict(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await local.sdk.runs.wait(thread, "agent", input=demo(steps=1, tag="a"))
        await start_running(local.sdk, thread, sleep=60)
        with pytest.raises(ConflictError):
            await remote.sdk.threads.prune([thread], strategy="keep_latest")
        assert len(await local.sdk.threads.get_history(thread)) >= 2


async def test_thread_that_a_run_creates_has_the_metadata_of_the_run(plain: Pair) -> None:
    local, remote = plain
    mine: Any = {"m": "ü", "graph_id": "another"}
    run = await local.sdk.runs.create(None, "agent", input=demo(), metadata=mine, on_completion="keep")
    await remote.sdk.runs.join(run["thread_id"], run["run_id"])
    made = str(uuid4())
    await local.sdk.runs.wait(made, "agent", input=demo(), metadata=mine, if_not_exists="create")
    matches = await remote.sdk.threads.search(metadata={"m": "ü", "graph_id": "agent"})
    assert {thread["thread_id"] for thread in matches} == {made, run["thread_id"]}
    await remote.sdk.runs.wait(made, "agent", input=demo(), metadata={"m": "later", "n": 1})
    agent = {"graph_id": "agent", "assistant_id": local.manager.assistants.id_of("agent")}
    assert (await local.sdk.threads.get(made))["metadata"] == {"m": "ü", **agent}
    assert (await local.sdk.runs.get(run["thread_id"], run["run_id"]))["metadata"] == mine


async def test_runs_write_their_assistant_into_the_metadata(plain: Pair) -> None:
    """Front ends search their threads by the graph's name or the assistant's id."""
    local, remote = plain
    agent = local.manager.assistants.id_of("agent")
    mine = {"graph_id": "agent", "assistant_id": agent}
    made = (await local.sdk.threads.create(metadata={"title": "ä", "graph_id": "another"}))["thread_id"]
    await local.sdk.runs.wait(made, agent, input=demo())
    run = await remote.sdk.runs.create(str(uuid4()), "agent", input=demo(), if_not_exists="create")
    await remote.sdk.runs.join(run["thread_id"], run["run_id"])
    assert (await remote.sdk.threads.get(made))["metadata"] == {"title": "ä", **mine}
    for metadata in (mine, {"graph_id": "agent"}, {"assistant_id": agent}):
        matches = await remote.sdk.threads.search(metadata=metadata)
        assert {thread["thread_id"] for thread in matches} == {made, run["thread_id"]}
    assert await remote.sdk.threads.search(metadata={"graph_id": "another"}) == []
    await local.sdk.threads.update(made, metadata={"title": "b"})
    await local.sdk.runs.wait(made, "echo", input={"a": 1})
    echo = {"graph_id": "echo", "assistant_id": local.manager.assistants.id_of("echo")}
    assert (await local.sdk.threads.get(made))["metadata"] == {"title": "b", **echo}
    await local.manager.create_or_reject("plain", "an unregistered name")
    thread = await local.manager.threads.get("plain")
    assert thread.metadata == {}


class TestSearch:
    async def test_search_has_pages(self, http: httpx.AsyncClient) -> None:
        made = [
            (await http.post("/threads", json={"metadata": {"n": n % 2}})).json()["thread_id"]
            for n in range(7)
        ]

        async def page(**body: Any) -> tuple[list[str], str, str | None]:
            answer = await http.post("/threads/search", json=body)
            matches = [thread["thread_id"] for thread in answer.json()]
            return matches, answer.headers["x-pagination-total"], answer.headers.get("x-pagination-next")

        assert await page() == (made[::-1], "7", None)
        assert await page(limit=3) == (made[:3:-1], "7", "3")
        assert await page(limit=3, offset=6) == ([made[0]], "7", None)
        assert await page(limit=7) == (made[::-1], "7", None)
        assert await page(offset=50) == ([], "7", None)
        assert await page(metadata={"n": 1}, sort_order="asc") == (made[1::2], "3", None)
        assert await page(ids=[made[2], str(uuid4())]) == ([made[2]], "1", None)
        assert (await http.post("/threads/count", json={"metadata": {"n": 0}})).json() == 4

    async def test_search_by_values_and_status(self, http: httpx.AsyncClient) -> None:
        made = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{made}/runs/wait", json={"assistant_id": "agent", "input": demo(tag="t")})
        for body in ({"values": {"log": ["t:1"]}}, {"values": {"done": 1}}, {"status": "idle"}):
            assert (await http.post("/threads/count", json=body)).json() == 1
        for body in ({"values": {"done": 2}}, {"status": "busy"}, {"status": "error"}):
            assert (await http.post("/threads/count", json=body)).json() == 0

    async def test_search_returns_selected_and_extracted_fields(self, http: httpx.AsyncClient) -> None:
        made = (await http.post("/threads", json={"metadata": {"k": [1, {"x": 2}]}})).json()["thread_id"]
        await http.post(
            f"/threads/{made}/state", json={"values": {"messages": [{"content": "a"}, {"content": "b"}]}}
        )
        body = {
            "select": ["thread_id"],
            "extract": {
                "last": "values.messages[-1].content",
                "x": "metadata.k[1].x",
                "none": "values.messages[7].content",
                "no_such": "values.other.thing",
            },
        }
        matches = (await http.post("/threads/search", json=body)).json()
        assert matches == [
            {"thread_id": made, "extracted": {"last": "b", "x": 2, "none": None, "no_such": None}}
        ]
        for path in (
            "",
            "values..a",
            "values[",
            "values[x]",
            "user_id",
            ".values",
            "values." + "a" * 600,
            "[0]",
        ):
            answer = await http.post("/threads/search", json={"extract": {"a": path}})
            assert answer.status_code == 422, path


class TestCopy:
    async def test_copy_has_state_and_metadata_without_runs(self, plain: Pair) -> None:
        local, remote = plain
        source = (await local.sdk.threads.create(metadata={"a": 1}))["thread_id"]
        await local.sdk.runs.wait(source, "agent", input=demo(tag="t"))
        copy = await remote.sdk.threads.copy(source)
        assert copy["thread_id"] != source
        metadata = (await local.sdk.threads.get(source))["metadata"]
        assert metadata["a"] == 1
        assert (copy["metadata"], copy["values"]["log"]) == (metadata, ["t:1"])
        assert await local.sdk.runs.list(copy["thread_id"]) == []
        await remote.sdk.runs.wait(copy["thread_id"], "agent", input=demo(tag="u"))
        assert (await local.sdk.threads.get(source))["values"]["log"] == ["t:1"]

    async def test_copy_of_an_unknown_thread_is_not_found(self, http: httpx.AsyncClient) -> None:
        assert (await http.post(f"/threads/{uuid4()}/copy")).status_code == 404


class TestStates:
    async def test_state_contains_the_threads_values(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        empty = await remote.sdk.threads.get_state(thread)
        assert (empty["values"], empty["next"], empty["checkpoint"]["checkpoint_id"]) == ({}, [], None)
        assert await remote.sdk.threads.get_history(thread) == []
        await local.sdk.runs.wait(thread, "agent", input=demo(tag="t", steps=2))
        state = await remote.sdk.threads.get_state(thread)
        assert state["values"]["log"] == ["t:1", "t:2"]
        assert state["checkpoint"]["thread_id"] == thread
        first, *older = await local.sdk.threads.get_history(thread)
        assert first == state
        at = state["checkpoint"]["checkpoint_id"]
        assert await local.sdk.threads.get_state(thread, checkpoint_id=at) == state
        assert await local.sdk.threads.get_state(thread, checkpoint=state["checkpoint"]) == state
        assert await local.sdk.threads.get_history(thread, before=at) == older

    async def test_state_returns_selected_fields(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        await one.sdk.runs.wait(thread, "agent", input=demo())
        picked = await one.sdk.threads.get_state(thread, select=["values.done", "next"])
        assert picked == {"values": {"done": 1}, "next": []}
        picked = await one.sdk.threads.get_state(thread, select=["values", "values.done"])
        assert picked == {"values": {"log": ["run:1"], "done": 1, "steps": 1}}
        picked = await one.sdk.threads.get_history(thread, select=["values.done"])
        assert picked == [{"values": {"done": 1}}, {"values": {}}]

    async def test_state_can_be_updated(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await local.sdk.runs.wait(thread, "agent", input=demo(tag="t"))
        changed = await remote.sdk.threads.update_state(thread, {"log": ["mine"]})
        state = await local.sdk.threads.get_state(thread)
        assert changed["checkpoint"] == state["checkpoint"]
        assert (state["values"]["log"], state["values"]["done"]) == (["mine"], 1)
        result = await remote.sdk.runs.wait(thread, "agent", input=demo(tag="u"))
        assert result["log"] == ["mine", "u:1"]

    async def test_state_update_is_refused_while_a_run_is_in_flight(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        run = await start_running(local.sdk, thread, sleep=60)
        answer = await remote.raw.post(f"/threads/{thread}/state", json={"values": {"a": 1}})
        assert (answer.status_code, answer.json()["run_id"]) == (409, run)

    async def test_unknown_state_is_not_found(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        for path in (f"{thread}/state/nope", f"{uuid4()}/state", f"{uuid4()}/state/nope"):
            assert (await one.raw.get(f"/threads/{path}")).status_code == 404
        body = {"checkpoint": {"checkpoint_id": "nope"}}
        assert (await one.raw.post(f"/threads/{thread}/state/checkpoint", json=body)).status_code == 404
        assert (await one.raw.post(f"/threads/{uuid4()}/history", json={})).status_code == 404


class TestAssistants:
    async def test_assistant_is_found_by_name_and_by_id(self, plain: Pair) -> None:
        local, remote = plain
        matches = await local.sdk.assistants.search(limit=100)
        assert matches == await remote.sdk.assistants.search(limit=100)
        agent = next(one for one in matches if one["name"] == "agent")
        for assistant in ("agent", agent["assistant_id"]):
            assert await remote.sdk.assistants.get(assistant) == agent
            schemas = await local.sdk.assistants.get_schemas(assistant)
            assert "sleep" in schemas["input_schema"]["properties"]
            assert (await local.sdk.assistants.get_graph(assistant))["nodes"]
        thread = await new_thread(local.sdk)
        for assistant in ("agent", agent["assistant_id"]):
            run = await remote.sdk.runs.create(thread, assistant, input=demo())
            assert run["assistant_id"] == agent["assistant_id"]
        assert (await remote.sdk.runs.join(thread, run["run_id"]))["log"] == ["run:1", "run:1"]

    async def test_search_assistants_by_name(self, one: Served) -> None:
        assert await one.sdk.assistants.count(name="ALK") == 1
        assert await one.sdk.assistants.count(graph_id="talker") == 1
        assert await one.sdk.assistants.count(metadata={"created_by": "another"}) == 0
        page = await one.sdk.assistants.search(limit=2, response_format="object")
        assert (len(page["assistants"]), page["next"]) == (2, "2")
        names = [a["name"] for a in await one.sdk.assistants.search(sort_by="name", sort_order="desc")]
        assert names == sorted(names, reverse=True)
        assert await one.sdk.assistants.search(graph_id="agent", select=["name"]) == [{"name": "agent"}]

    async def test_unknown_assistant_is_not_found(self, http: httpx.AsyncClient) -> None:
        for path in ("unknown", str(uuid4()), f"{uuid4()}/schemas", "unknown/graph"):
            assert (await http.get(f"/assistants/{path}")).status_code == 404
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        for assistant, status in (("unknown", 422), (str(uuid4()), 404)):
            body = {"assistant_id": assistant}
            assert (await http.post(f"/threads/{thread}/runs", json=body)).status_code == status
            assert (await http.post("/runs/wait", json=body)).status_code == status
        assert (await http.get(f"/threads/{thread}/runs")).json() == []


async def test_history_is_read_without_a_body(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    for tag in ("a", "b"):
        await local.sdk.runs.wait(thread, "agent", input=demo(tag=tag))
    whole = await local.sdk.threads.get_history(thread)
    path = f"/threads/{thread}/history"
    assert (await remote.raw.get(path)).json() == whole
    assert (await remote.raw.get(path, params={"limit": 1})).json() == whole[:1]
    before = whole[0]["checkpoint"]["checkpoint_id"]
    assert before is not None
    assert (await remote.raw.get(path, params={"before": before})).json() == whole[1:]
    assert (await remote.raw.get(path, params={"limit": "x"})).status_code == 422


async def test_thread_stays_interrupted_without_its_paused_run(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    await local.sdk.runs.wait(thread, "asker")
    (run,) = await local.sdk.runs.list(thread)
    await remote.sdk.runs.delete(thread, run["run_id"])
    shown = await local.sdk.threads.get(thread)
    assert (shown["status"], len(shown["interrupts"])) == ("interrupted", 1)
    assert [each["thread_id"] for each in await remote.sdk.threads.search(status="interrupted")] == [thread]
    assert await local.sdk.runs.wait(thread, "asker", command={"resume": "yes"}) == {"answer": "yes"}
    assert (await remote.sdk.threads.get(thread))["status"] == "idle"
