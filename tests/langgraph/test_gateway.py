"""Graphs over HTTP, with the real client, on two gateways that share their files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.langgraph import graphs
from tests.langgraph.lab import assistants
from tests.support.gateways import Sdk, gateways


@pytest.fixture
async def sdks(tmp_path: Path, namespace: str) -> AsyncGenerator[tuple[Sdk, Sdk]]:
    made = {
        "asking": graphs.asking("one"),
        "nested": graphs.nested(questions=True),
        "chain": graphs.chain("a", "b"),
        "chat": graphs.chat(),
        "waiting": graphs.Waiting().graph,
    }
    team = gateways(2, tmp_path, None, namespace, agents=lambda: assistants(tmp_path, made))
    async with team as (a, b):
        yield a.sdk, b.sdk


async def new_thread(sdk: Sdk, **options: Any) -> str:
    return (await sdk.threads.create(**options))["thread_id"]


async def test_question_and_answer_on_two_gateways(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    thread = await new_thread(a)
    paused = await a.runs.wait(thread, "asking", input={"log": []})
    (question,) = paused["__interrupt__"]
    assert (paused["log"], question["value"]) == ([], {"q": "one"})
    assert (await b.threads.get(thread))["status"] == "interrupted"
    state = await b.threads.get_state(thread)
    assert (state["next"], state["tasks"][0]["interrupts"][0]["id"]) == (["question"], question["id"])
    answered = await b.runs.wait(thread, "asking", command={"resume": {question["id"]: 1}})
    assert answered == {"log": ["one=1", "note"]}
    history = await a.threads.get_history(thread)
    assert [one["metadata"]["step"] for one in history] == [2, 1, 0, -1]
    assert history[0]["parent_checkpoint"] == history[1]["checkpoint"]


async def test_stream_of_several_modes_and_subgraphs(sdks: tuple[Sdk, Sdk]) -> None:
    a, _ = sdks
    thread = await new_thread(a)
    modes: Any = ["values", "updates", "tasks", "checkpoints", "debug", "custom"]
    events = [
        part
        async for part in a.runs.stream(
            thread, "nested", input={"log": ["in"]}, stream_mode=modes, stream_subgraphs=True
        )
    ]
    names = {part.event.partition(":")[0] for part in events}
    assert names >= {"metadata", "values", "updates", "tasks", "checkpoints", "debug"}
    assert names >= {"values|inner", "tasks|inner"}
    last = [part.data for part in events if part.event == "values"][-1]
    assert last["__interrupt__"][0]["value"] == {"q": "inner"}
    state = await a.threads.get_state(thread, subgraphs=True)
    assert state["tasks"][0]["state"]["next"] == ["x"]


@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
async def test_stream_of_messages(sdks: tuple[Sdk, Sdk], mode: Any) -> None:
    a, _ = sdks
    given = {"messages": [{"role": "user", "content": "hi"}]}
    stream = a.runs.stream(None, "chat", input=given, stream_mode=mode)
    events = [part async for part in stream]
    names = [part.event for part in events]
    expected = {"messages": {"messages/metadata", "messages/partial"}, "messages-tuple": {"messages"}}
    assert expected[mode] <= set(names)
    assert "error" not in names


async def test_update_and_fork_over_http(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    thread = await new_thread(a)
    await a.runs.wait(thread, "chain", input={"log": []})
    history = await b.threads.get_history(thread)
    (at_b,) = [one for one in history if one["next"] == ["b"]]
    await b.threads.update_state(thread, {"log": ["x"]}, as_node="a", checkpoint=at_b["checkpoint"])
    state = await a.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"log": ["a", "x"]}, ["b"])
    assert await a.runs.wait(thread, "chain", input=None) == {"log": ["a", "x", "b"]}


async def test_breakpoint_and_errors_of_the_request(sdks: tuple[Sdk, Sdk]) -> None:
    from langgraph_sdk.errors import UnprocessableEntityError

    a, b = sdks
    thread = await new_thread(a)
    assert (await a.runs.wait(thread, "chain", input={"log": []}, interrupt_before=["b"]))["log"] == ["a"]
    assert (await b.threads.get_state(thread))["next"] == ["b"]
    assert (await b.runs.wait(thread, "chain", input=None))["log"] == ["a", "b"]
    for wrong in ({"interrupt_after": ["no"]}, {"command": {"goto": "no"}}, {"input": [1]}):
        with pytest.raises(UnprocessableEntityError):
            await a.runs.create(thread, "chain", **wrong)


async def test_cancel_on_the_other_gateway(tmp_path: Path, namespace: str) -> None:
    waiting = graphs.Waiting()
    agents = lambda: assistants(tmp_path, {"waiting": waiting.graph})  # noqa: E731 - for each gateway
    async with gateways(2, tmp_path, None, namespace, agents=agents) as (one, other):
        a, b = one.sdk, other.sdk
        thread = await new_thread(a)
        run = await a.runs.create(thread, "waiting", input={"log": []})
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        await b.runs.cancel(thread, run["run_id"], wait=True)
        assert (await b.runs.get(thread, run["run_id"]))["status"] == "interrupted"
        state = await a.threads.get_state(thread)
        assert (state["values"], state["next"]) == ({"log": ["a"]}, ["b"])


async def test_assistants_describe_their_graphs(sdks: tuple[Sdk, Sdk]) -> None:
    a, _ = sdks
    listed = {one["graph_id"]: one for one in await a.assistants.search()}
    assert set(listed) >= {"asking", "nested", "chain"}
    nested = listed["nested"]["assistant_id"]
    schemas = await a.assistants.get_schemas(nested)
    assert set(schemas["input_schema"]["properties"]) == {"log", "answer"}
    drawing = await a.assistants.get_graph(nested)
    assert {"before", "inner", "after"} <= {node["id"] for node in drawing["nodes"]}
    assert list(await a.assistants.get_subgraphs(nested)) == ["inner"]
    drawing = await a.assistants.get_graph(nested, xray=True)
    assert "inner:x" in {node["id"] for node in drawing["nodes"]}


async def test_thread_begins_with_supersteps(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    steps: Any = [
        {"updates": [{"values": {"log": ["in"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"log": ["x"]}, "as_node": "a"}]},
    ]
    thread = await new_thread(a, graph_id="chain", supersteps=steps)
    state = await b.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"log": ["in", "x"]}, ["b"])
    assert await b.runs.wait(thread, "chain", input=None) == {"log": ["in", "x", "b"]}


async def test_interrupts_of_a_thread_are_by_task(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    thread = await new_thread(a)
    await a.runs.wait(thread, "asking", input={"log": []})
    task = (await b.threads.get_state(thread))["tasks"][0]["id"]
    interrupts = (await b.threads.get(thread))["interrupts"]
    assert [one["value"] for one in interrupts[task]] == [{"q": "one"}]
