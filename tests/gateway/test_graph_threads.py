"""Requests of clients of graphs about threads and assistants: the assistant of a new thread, histories of
subgraphs, interrupts by task, supersteps, empty answers, refused updates, and drawings of subgraphs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.conftest import Pair, Served
from tests.support.gateways import new_thread


@pytest.fixture
def served(graphs: Pair) -> Served:
    return graphs[0]


async def test_update_before_the_first_run_reaches_the_graph_that_the_thread_was_created_for(
    graphs: Pair,
) -> None:
    local, remote = graphs
    thread = (await local.sdk.threads.create(graph_id="agent"))["thread_id"]
    await remote.sdk.threads.update_state(thread, {"log": ["mine"]}, as_node="step")
    state = await local.sdk.threads.get_state(thread)
    assert (state["values"], state["metadata"]["source"]) == ({"log": ["mine"]}, "update")
    result = await local.sdk.runs.wait(thread, "agent", input={"tag": "a"})
    assert result["log"] == ["mine", "a:1"]


async def test_thread_is_created_with_the_assistants_id_as_well(served: Served) -> None:
    (agent,) = await served.sdk.assistants.search(graph_id="agent")
    thread = (await served.sdk.threads.create(metadata={"assistant_id": agent["assistant_id"]}))["thread_id"]
    await served.sdk.threads.update_state(thread, {"log": ["mine"]}, as_node="step")
    assert (await served.sdk.threads.get_state(thread))["metadata"]["source"] == "update"


async def test_update_of_a_thread_that_names_an_unknown_graph_is_refused(served: Served) -> None:
    thread = (await served.sdk.threads.create(graph_id="elsewhere"))["thread_id"]
    answer = await served.raw.post(f"/threads/{thread}/state", json={"values": {"a": 1}})
    assert answer.status_code == 422
    assert "set graph_id in its metadata to one of 'agent'" in answer.json()["detail"]
    assert (await served.sdk.threads.get(thread))["values"] is None


async def test_supersteps_of_a_new_thread_are_applied_by_its_graph(served: Served) -> None:
    steps: list[Any] = [
        {"updates": [{"values": {"a": 1}, "as_node": "__start__"}]},
        {
            "updates": [
                {"values": {"b": 2}, "as_node": "step"},
                {"values": None, "command": {"update": {"c": 3}}, "as_node": "step"},
            ]
        },
    ]
    thread = (await served.sdk.threads.create(graph_id="agent", supersteps=steps))["thread_id"]
    history = await served.sdk.threads.get_history(thread)
    assert [state["values"] for state in history] == [{"a": 1, "b": 2, "c": 3}, {"a": 1}]
    wrong: list[Any] = [{"updates": [{"values": {"a": 1}, "as_node": "nowhere"}]}]
    body = {"thread_id": str(uuid4()), "metadata": {"graph_id": "agent"}, "supersteps": wrong}
    assert (await served.raw.post("/threads", json=body)).status_code == 422
    assert (await served.raw.get(f"/threads/{body['thread_id']}")).status_code == 404


async def test_history_of_a_subgraph(served: Served) -> None:
    thread = await new_thread(served.sdk)
    await served.sdk.runs.wait(thread, "agent", input={"steps": 2})
    root = await served.sdk.threads.get_history(thread)
    for namespace, expected in (("", len(root)), ("inner", len(root)), ("unknown", 0)):
        states = await served.sdk.threads.get_history(thread, checkpoint={"checkpoint_ns": namespace})
        assert [state["checkpoint"]["checkpoint_ns"] for state in states] == [namespace] * expected


async def test_interrupts_of_a_thread_are_by_task(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    paused = await local.sdk.runs.wait(thread, "agent", input={"steps": 2, "pause_before": [2]})
    state = await remote.sdk.threads.get_state(thread)
    (task,) = state["tasks"]
    assert task["id"] != thread
    shown = (await remote.sdk.threads.get(thread))["interrupts"]
    assert shown == {task["id"]: paused["__interrupt__"]} == {task["id"]: state["interrupts"]}
    assert {*paused["__interrupt__"][0]} == {"value", "id"}


async def test_null_is_an_answer_and_an_empty_command_is_none(served: Served) -> None:
    thread = await new_thread(served.sdk)
    await served.sdk.runs.wait(thread, "agent", input={"steps": 2, "pause_before": [2], "tag": "a"})
    for command in ({}, {"update": None}, {"goto": None, "update": None}):
        body = {"assistant_id": "agent", "command": command}
        answer = await served.raw.post(f"/threads/{thread}/runs/wait", json=body)
        assert answer.status_code == 422
        assert "needs one of resume, update and goto" in answer.text
    body = {"assistant_id": "agent", "command": {"resume": None}}
    answer = await served.raw.post(f"/threads/{thread}/runs/wait", json=body)
    assert answer.json()["log"] == ["a:1", "a:2:None"]


async def test_exception_of_a_reducer_refuses_the_update(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    thread = await new_thread(served.sdk)
    await served.sdk.runs.wait(thread, "agent", input={})
    answer = await served.raw.post(f"/threads/{thread}/state", json={"values": {"refused": 1}})
    assert answer.status_code == 422
    assert "RuntimeError: the reducer refuses this" in answer.json()["detail"]
    assert "RuntimeError: the reducer refuses this" in caplog.text
    assert (await served.sdk.threads.get(thread))["status"] == "idle"


async def test_subgraphs_have_schemas(served: Served) -> None:
    subgraphs = await served.sdk.assistants.get_subgraphs("agent")
    assert [*subgraphs] == ["inner"]
    assert (subgraphs["inner"]["graph_id"], subgraphs["inner"]["state_schema"]) == (
        "agent",
        {"title": "Inner"},
    )
    assert [*await served.sdk.assistants.get_subgraphs("agent", recurse=True)] == ["inner", "inner|innermost"]
    one = await served.sdk.assistants.get_subgraphs("agent", "inner|innermost", recurse=True)
    assert [*one] == ["inner|innermost"]
    assert await served.sdk.assistants.get_subgraphs("agent", "unknown") == {}
    assert await served.sdk.assistants.get_subgraphs("talker") == {}
    assert (await served.raw.get("/assistants/unknown/subgraphs")).status_code == 404


@pytest.mark.parametrize(
    ("xray", "nodes"),
    [(False, 3), (0, 3), (1, 4), (2, 5), (True, 5), ("", None), (-1, None), ("deep", None)],
)
async def test_drawing_includes_subgraphs_to_a_depth(served: Served, xray: Any, nodes: int | None) -> None:
    value = str(xray).lower() if isinstance(xray, bool) else xray
    answer = await served.raw.get("/assistants/agent/graph", params={"xray": value})
    if nodes is None:
        assert answer.status_code == 422
    else:
        assert len(answer.json()["nodes"]) == nodes
