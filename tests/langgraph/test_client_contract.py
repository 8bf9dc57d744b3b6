"""What clients of LangGraph's own server rely on, with its real client over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.langgraph import graphs
from tests.langgraph.lab import assistants
from tests.support.gateways import Sdk, Served, gateways


@pytest.fixture
async def gateway(tmp_path: Path, namespace: str) -> AsyncGenerator[Served]:
    made = {
        "asking": graphs.asking("one"),
        "both": graphs.asking_twice_at_once(),
        "chain": graphs.chain("a", "b"),
        "failing": graphs.failing(),
        "nested": graphs.nested(questions=True),
        "jumping": graphs.asking_aside(),
    }
    async with gateways(1, tmp_path, None, namespace, agents=lambda: assistants(tmp_path, made)) as (one,):
        yield one


@pytest.fixture
def sdk(gateway: Served) -> Sdk:
    return gateway.sdk


async def new_thread(sdk: Sdk, graph: str) -> str:
    return (await sdk.threads.create(graph_id=graph))["thread_id"]


# -- documents of states


async def test_states_have_the_ids_of_their_checkpoints(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "chain")
    empty: Any = await sdk.threads.get_state(thread)
    assert (empty["checkpoint_id"], empty["parent_checkpoint_id"]) == (None, None)
    await sdk.runs.wait(thread, "chain", input={"log": []})
    history: Any = await sdk.threads.get_history(thread)
    for state, parent in zip(history, [*history[1:], None], strict=True):
        assert state["checkpoint_id"] == state["checkpoint"]["checkpoint_id"]
        assert set(state["checkpoint"]) == {"thread_id", "checkpoint_ns", "checkpoint_id"}
        assert state["parent_checkpoint_id"] == (parent and parent["checkpoint_id"])
    assert (await sdk.threads.get_state(thread))["checkpoint_id"] == history[0]["checkpoint_id"]


async def test_state_of_a_subgraph_has_its_checkpoint(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "nested")
    await sdk.runs.wait(thread, "nested", input={"log": []})
    (task,) = (await sdk.threads.get_state(thread, subgraphs=True))["tasks"]
    inner = task["state"]
    assert inner["checkpoint_id"] == inner["checkpoint"]["checkpoint_id"]
    assert inner["parent_checkpoint_id"] == inner["parent_checkpoint"]["checkpoint_id"]
    state: Any = await sdk.threads.get_state(thread, checkpoint=inner["checkpoint"])
    assert state["checkpoint"]["checkpoint_map"][""] == (await sdk.threads.get_state(thread))["checkpoint_id"]


async def test_time_travel_of_the_documentation(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "chain")
    await sdk.runs.wait(thread, "chain", input={"log": []})
    selected: Any = (await sdk.threads.get_history(thread))[1]
    new: Any = await sdk.threads.update_state(
        thread, {"log": ["edited"]}, checkpoint_id=selected["checkpoint_id"]
    )
    assert new["checkpoint_id"] == new["checkpoint"]["checkpoint_id"]
    assert new["configurable"] == new["checkpoint"]
    assert set(new["checkpoint"]) == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    result = await sdk.runs.wait(thread, "chain", input=None, checkpoint_id=new["checkpoint_id"])
    assert result == {"log": ["a", "edited", "b"]}


async def test_history_before_an_unknown_checkpoint_is_refused(sdk: Sdk) -> None:
    """Whatever its place in the order of ids."""
    thread = await new_thread(sdk, "chain")
    await sdk.runs.wait(thread, "chain", input={"log": []})
    first: Any = await sdk.threads.get_history(thread)
    newest = first[0]["checkpoint_id"]
    unknown: list[Any] = [
        "zz",
        "0",
        f"{newest[:-1]}{'0' if newest[-1] != '0' else '1'}",
        {"configurable": {}},
    ]
    for before in unknown:
        with pytest.raises(httpx.HTTPStatusError, match="before: the thread has no such checkpoint"):
            await sdk.threads.get_history(thread, before=before)
    for at, state in enumerate(first, 1):
        assert await sdk.threads.get_history(thread, before=state["checkpoint_id"]) == first[at:]


async def test_history_of_a_subgraph_before_one_of_its_checkpoints(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "nested")
    await sdk.runs.wait(thread, "nested", input={"log": []})
    (task,) = (await sdk.threads.get_state(thread))["tasks"]
    inside: Any = {"checkpoint_ns": task["checkpoint"]["checkpoint_ns"]}
    history: Any = await sdk.threads.get_history(thread, checkpoint=inside)
    assert len(history) == 2
    for before in (history[0]["checkpoint"], history[0]["checkpoint_id"]):
        assert await sdk.threads.get_history(thread, checkpoint=inside, before=before) == history[1:]


# -- interrupts


@pytest.mark.parametrize("command", [{"goto": "aside"}, {"goto": "aside", "update": {"log": ["u"]}}])
async def test_interrupt_of_a_node_that_a_command_went_to(gateway: Served, command: Any) -> None:
    sdk = gateway.sdk
    thread = await new_thread(sdk, "jumping")
    await sdk.runs.wait(thread, "jumping", input={"log": []})
    paused: Any = await sdk.runs.wait(thread, "jumping", command=command)
    (interrupt,) = paused["__interrupt__"]
    assert interrupt["value"] == "aside?"
    row = await sdk.threads.get(thread)
    assert row["status"] == "interrupted"
    ((task, (shown,)),) = row["interrupts"].items()
    assert (shown["id"], task != thread) == (interrupt["id"], True)
    null = {"assistant_id": "jumping", "command": {"resume": None}}  # which the client would leave out
    answered = (await gateway.raw.post(f"/threads/{thread}/runs/wait", json=null)).json()
    assert answered["log"][-2:] == ["aside=None", "note"]
    assert (await sdk.threads.get(thread))["interrupts"] == {}


async def test_stop_at_a_breakpoint_is_no_interrupt(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "chain")
    assert await sdk.runs.wait(thread, "chain", input={"log": []}, interrupt_before=["b"]) == {"log": ["a"]}
    row = await sdk.threads.get(thread)
    assert (row["status"], row["interrupts"]) == ("interrupted", {})


# -- updates of state


async def test_update_of_a_thread_without_a_graph_is_refused(sdk: Sdk) -> None:
    from langgraph_sdk.errors import UnprocessableEntityError

    thread = (await sdk.threads.create())["thread_id"]
    with pytest.raises(UnprocessableEntityError, match=f"{thread}.*graph_id"):
        await sdk.threads.update_state(thread, {"log": ["x"]})
    assert (await sdk.threads.get_state(thread))["values"] == {}
    steps: Any = [{"updates": [{"values": {"log": []}, "as_node": "__start__"}]}]
    with pytest.raises(UnprocessableEntityError, match="graph_id"):
        await sdk.threads.create(supersteps=steps)
    await sdk.threads.update(thread, metadata={"graph_id": "chain"})
    await sdk.threads.update_state(thread, {"log": ["x"]}, as_node="a")
    assert await sdk.runs.wait(thread, "chain", input=None) == {"log": ["x", "b"]}


async def status(sdk: Sdk, thread: str) -> str:
    row = await sdk.threads.get(thread)
    (listed,) = await sdk.threads.search(ids=[thread], status=row["status"])
    assert listed["status"] == row["status"]
    return row["status"]


async def test_status_follows_from_the_updated_state(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "asking")
    await sdk.threads.update_state(thread, {"log": ["x"]}, as_node="question")
    assert await status(sdk, thread) == "interrupted"
    await sdk.runs.wait(thread, "asking", input=None)
    assert await status(sdk, thread) == "idle"
    await sdk.runs.wait(thread, "asking", input={"log": []})
    assert await status(sdk, thread) == "interrupted"
    await sdk.threads.update_state(thread, None, as_node="__end__")
    assert await status(sdk, thread) == "idle"


async def test_status_after_an_error_follows_from_the_update(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "failing")
    await sdk.runs.wait(thread, "failing", input={"log": []}, raise_error=False)
    row = await sdk.threads.get(thread)
    assert (row["status"], row["error"]) == (
        "error",
        {"error": "ValueError", "message": "the node failed"},
    )
    await sdk.threads.update_state(thread, {"log": ["repaired"]}, as_node="a")
    row = await sdk.threads.get(thread)
    assert (row["status"], row["error"]) == ("interrupted", None)
    await sdk.threads.update_state(thread, {"log": ["done"]}, as_node="node")
    assert await status(sdk, thread) == "idle"


async def test_answer_by_an_update_of_the_state(sdk: Sdk) -> None:
    thread = await new_thread(sdk, "both")
    await sdk.runs.wait(thread, "both", input={"log": []})
    await sdk.threads.update_state(thread, {"log": ["left"]}, as_node="left")
    row = await sdk.threads.get(thread)
    assert (row["status"], row["interrupts"]) == ("idle", {})
