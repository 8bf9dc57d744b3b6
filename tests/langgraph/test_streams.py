"""Events of a run are what the graph itself streams, under the names that clients expect."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from coordinator import Event, RunManager
from coordinator.langgraph.encoding import as_json
from coordinator.langgraph.views import checkpoint_of
from coordinator.schemas import User
from tests.langgraph import graphs
from tests.langgraph.lab import begun, workers

IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|lc_run-*")
TIMES = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.+]+")
OURS = ("run_id", "graph_id", "assistant_id", "thread_id")
"""Keys of metadata and configs that the coordinator adds."""

Events = list[tuple[str, Any]]


def comparable(value: Any) -> Any:
    """JSON without ids, times, and what the coordinator adds."""
    text = TIMES.sub("TIME", IDS.sub("ID", json.dumps(as_json(value), sort_keys=True)))
    return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if k not in OURS})


async def emitted(manager: RunManager, graph: str, given: Any, modes: list[str], **request: Any) -> Events:
    """The events of a run with these modes."""
    run = await begun(manager, graph, input=given, stream_mode=modes, **request)
    return await events_of(manager, run.run_id)


async def events_of(manager: RunManager, run_id: str) -> Events:
    await manager.wait(run_id, timeout=20)
    log = await manager.events(run_id)
    return [(event.mode, event.data) for event in log if isinstance(event, Event)]


async def streamed(builder: Any, given: Any, mode: str, *, subgraphs: bool) -> Events:
    """What the graph streams by itself."""
    graph = builder.compile(checkpointer=InMemorySaver(), name="mine")
    config: Any = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": "r"}}
    parts = graph.astream(given, config, stream_mode=[mode], subgraphs=subgraphs)
    full = [part if subgraphs else ((), *part) async for part in parts]
    return [("|".join((name, *namespace)), data) for namespace, name, data in full]


def wire(events: Events) -> Events:
    return [(IDS.sub("ID", name), comparable(data)) for name, data in events]


@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("mode", ["values", "updates", "custom", "tasks"])
@pytest.mark.parametrize("make", ["nested", "chat", "routed"])
async def test_mode_is_what_the_graph_streams(tmp_path: Path, make: str, mode: str, subgraphs: bool) -> None:
    builder = getattr(graphs, make)()
    given: Any = (
        {"messages": [{"role": "user", "content": "hi", "id": "q"}]} if make == "chat" else {"log": ["in"]}
    )
    expected = wire(await streamed(builder, given, mode, subgraphs=subgraphs))
    async with workers(tmp_path, {"mine": builder}, 1) as (manager,):
        events = await emitted(manager, "mine", given, [mode], stream_subgraphs=subgraphs)
    assert wire(events) == expected
    assert bool(expected) == (mode != "custom" or make == "chat")


@pytest.mark.parametrize("mode", ["checkpoints", "debug"])
async def test_checkpoints_are_shown_without_the_config_of_the_server(tmp_path: Path, mode: str) -> None:
    builder, given = graphs.nested(), {"log": ["in"]}
    expected = await streamed(builder, given, mode, subgraphs=True)
    async with workers(tmp_path, {"mine": builder}, 1) as (manager,):
        kwargs = {"input": given, "stream_mode": [mode], "stream_subgraphs": True}
        run = await manager.create_or_reject("t", "mine", kwargs=kwargs, user_id="ann")
        manager.launch(run)
        events = await events_of(manager, run.run_id)
    assert [comparable(name) for name, _ in events] == [comparable(name) for name, _ in expected]
    for (_, shown), (_, data) in zip(events, expected, strict=True):
        if mode == "checkpoints":
            check_checkpoint(shown, data)
            continue
        assert (shown["type"], shown["step"]) == (data["type"], data["step"])
        if shown["type"] == "checkpoint":
            check_checkpoint(shown["payload"], data["payload"])


def streaming() -> Any:
    """One node, which streams the checkpoints of a chain that ends with another graph."""
    inner = graphs.nested().compile().bind(stream_mode=["checkpoints", "debug"], subgraphs=True)
    chain: Any = RunnablePassthrough() | inner

    async def node(state: graphs.Log) -> graphs.Log:
        return {"log": [str(len([part async for part in chain.astream({"log": []})]))]}

    builder: Any = StateGraph(graphs.Log)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


async def test_events_show_checkpoints_without_the_rights_of_the_user(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": streaming()}, 1) as (manager,):
        modes = ["events", "checkpoints", "debug"]
        kwargs: dict[str, Any] = {"input": {"log": ["in"]}, "stream_mode": modes, "stream_subgraphs": True}
        run = await manager.create_or_reject("t", "mine", kwargs=kwargs, user_id="ann")
        manager.launch(run, user=User("ann", ("secret-right",)))
        events = [data for mode, data in await events_of(manager, run.run_id) if mode == "events"]
    chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream"]
    streamed: list[Any] = [
        chunk[-1] for chunk in chunks if isinstance(chunk, list) and "checkpoints" in chunk
    ]
    assert streamed
    assert all(one["checkpoint"]["checkpoint_id"] for one in streamed)
    assert "secret-right" not in json.dumps(events)


def check_checkpoint(shown: Any, streamed: Any) -> None:
    assert comparable([shown["values"], shown["next"]]) == comparable([streamed["values"], streamed["next"]])
    assert comparable(shown["checkpoint"]) == comparable(checkpoint_of(streamed["config"]))
    assert shown["checkpoint"]["checkpoint_id"]
    keys = {"thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map"}
    assert set(shown["config"]["configurable"]) <= keys
    assert not [task for task in shown["tasks"] if "configurable" in (task.get("state") or {})]


async def test_message_grows_and_is_complete(tmp_path: Path) -> None:
    given = {"messages": [{"role": "user", "content": "hi", "id": "q"}]}
    async with workers(tmp_path, {"mine": graphs.chat()}, 1) as (manager,):
        events = await emitted(manager, "mine", given, ["messages", "custom"])
    names = [name for name, _ in events]
    assert names[0] == "custom"
    first, *parts = events[1:]
    assert first[0] == "messages/metadata"
    (message_id,) = first[1]
    assert first[1][message_id]["metadata"]["langgraph_node"] == "model"
    texts = [data[0]["content"] for _, data in parts]
    assert [name for name, _ in parts][:-1] == ["messages/partial"] * (len(parts) - 1)
    assert len(parts) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == "Hello to you"
    assert {data[0]["type"] for _, data in parts} == {"ai"}
    assert {data[0]["id"] for _, data in parts} == {message_id}


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_message_tuples_are_the_chunks(tmp_path: Path, subgraphs: bool) -> None:
    given = {"messages": [{"role": "user", "content": "hi", "id": "q"}]}
    expected = await streamed(graphs.chat(), given, "messages", subgraphs=subgraphs)
    async with workers(tmp_path, {"mine": graphs.chat()}, 1) as (manager,):
        events = await emitted(manager, "mine", given, ["messages-tuple"], stream_subgraphs=subgraphs)
    assert [name for name, _ in events] == ["messages"] * len(expected)
    assert [data[0]["content"] for _, data in events] == [data[0].content for _, data in expected]


async def test_several_modes_keep_their_order(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": graphs.chain("a", "b")}, 1) as (manager,):
        events = await emitted(manager, "mine", {"log": ["in"]}, ["values", "updates"])
    assert events == [
        ("values", {"log": ["in"]}),
        ("updates", {"a": {"log": ["a"]}}),
        ("values", {"log": ["in", "a"]}),
        ("updates", {"b": {"log": ["b"]}}),
        ("values", {"log": ["in", "a", "b"]}),
    ]


async def test_nothing_is_emitted_that_was_not_requested(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": graphs.asking("q")}, 1) as (manager,):
        assert await emitted(manager, "mine", {"log": []}, []) == []


async def test_interrupt_is_in_updates_and_in_the_last_values(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": graphs.asking("q")}, 1) as (manager,):
        events = await emitted(manager, "mine", {"log": ["in"]}, ["values", "updates"])
    interrupts = [data["__interrupt__"] for _, data in events if "__interrupt__" in data]
    assert [name for name, data in events if "__interrupt__" in data] == ["updates", "values"]
    assert [one["value"] for one in interrupts[0]] == [{"q": "q"}]
    assert interrupts[0] == interrupts[1]


async def test_events_are_those_of_the_tracer(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": graphs.nested()}, 1) as (manager,):
        events = await emitted(manager, "mine", {"log": []}, ["events", "values"], stream_subgraphs=True)
    traced = [data["event"] for name, data in events if name == "events"]
    assert (traced[0], traced[-1]) == ("on_chain_start", "on_chain_end")
    values = [data for name, data in events if name == "values"]
    assert values[-1] == {"log": ["before", "before", "x", "y", "after"]}
    assert any(name.startswith("values|inner:") for name, _ in events)


@pytest.mark.parametrize("modes", [["events"], ["values", "events"], ["events", "updates", "messages-tuple"]])
async def test_events_leave_out_what_the_graph_itself_streams(tmp_path: Path, modes: list[str]) -> None:
    """It comes in events of its own mode, if that is requested. The chunks of nodes are events."""
    async with workers(tmp_path, {"mine": graphs.nested()}, 1) as (manager,):
        events = await emitted(manager, "mine", {"log": []}, modes)
    traced = [data for name, data in events if name == "events"]
    root = traced[0]["run_id"]
    names = [(data["event"], data["name"]) for data in traced if data["run_id"] != root]
    assert [data["event"] for data in traced if data["run_id"] == root] == ["on_chain_start", "on_chain_end"]
    assert ("on_chain_stream", "before") in names
    graph = graphs.nested().compile(checkpointer=InMemorySaver(), name="mine")
    config: Any = {"configurable": {"thread_id": "t"}}
    stock = [one async for one in graph.astream_events({"log": []}, config, version="v2")]
    assert names == [(one["event"], one["name"]) for one in stock if one["parent_ids"]]
    shown = {name for name, _ in events} - {"events"}
    assert shown == {mode for mode in modes if mode in {"values", "updates"}}


async def test_events_show_a_send_with_its_node_and_argument(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": sending()}, 1) as (manager,):
        events = await emitted(manager, "mine", {"log": []}, ["events"])
    outputs = [data["data"].get("output") for _, data in events if data["name"] == "fan"]
    assert [{"node": "work", "args": {"x": 1}}] in outputs


def sending() -> Any:
    """`plan`, then a node for each `Send` of the condition `fan`."""

    async def work(item: Any) -> graphs.Log:
        return {"log": [str(item["x"])]}

    def fan(state: graphs.Log) -> list[Send]:
        return [Send("work", {"x": 1})]

    builder = graphs.chain("plan")
    builder.add_node("work", work)
    builder.add_conditional_edges("plan", fan, ["work"])
    return builder


@pytest.mark.parametrize("modes", [["messages", "messages-tuple"], ["messages-tuple", "messages"]])
async def test_message_tuples_replace_growing_messages(tmp_path: Path, modes: list[str]) -> None:
    """In either order, as from LangGraph's own server."""
    given = {"messages": [{"role": "user", "content": "hi", "id": "q"}]}
    async with workers(tmp_path, {"mine": graphs.chat()}, 1) as (manager,):
        events = await emitted(manager, "mine", given, modes)
    assert {name for name, _ in events} == {"messages"}
    assert "".join(data[0]["content"] for _, data in events) == "Hello to you"


async def test_large_state_is_streamed_or_missing_and_never_ends_the_run(tmp_path: Path) -> None:
    async with workers(tmp_path, {"mine": graphs.chain("a")}, 1) as (manager,):
        run = await begun(
            manager, "mine", input={"log": ["x" * 1_500_000]}, stream_mode=["values", "updates"]
        )
        values = await manager.wait(run.run_id, timeout=20)
        assert values["log"][1] == "a"
        modes = [name for name, _ in await events_of(manager, run.run_id)]
    assert "updates" in modes
