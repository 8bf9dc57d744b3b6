"""State, history, updates, forks and descriptions of graphs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from coordinator import CheckpointRef, InvalidArgument
from coordinator.assistants.ports import Assistant
from coordinator.langgraph import GraphAssistant, sqlite_states
from coordinator.langgraph.assistant import _PAGE
from coordinator.schemas import StateStep
from tests.langgraph import graphs
from tests.langgraph.lab import done, log, past, view, workers

FRESH: dict[str, Any] = {"input": {"log": []}}


async def test_history_is_complete_and_newest_first(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b")}) as (a, b):
        await done(a, "g", **FRESH)
        states = await past(b)
        assert [one.values.get("log") for one in states] == [["a", "b"], ["a"], [], []]
        assert [one.metadata["step"] for one in states] == [2, 1, 0, -1]
        assert [one.next for one in states] == [(), ("b",), ("a",), ("__start__",)]
        assert [one.parent for one in states] == [*(one.checkpoint for one in states[1:]), None]
        assert states[0] == await view(a)
        for one in states:
            assert await b.threads.state("t", one.checkpoint) == one
        assert await past(b, before=states[1].checkpoint) == states[2:]
        assert [one async for one in b.threads.history("t", limit=1)] == states[:1]
        assert await past(b, metadata={"source": "input"}) == states[3:]
        assert await past(b, metadata={"graph_id": "g", "step": 1}) == states[1:2]
        assert await past(b, metadata={"graph_id": "other"}) == []


async def test_long_history_is_read_in_pages(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(2 * _PAGE)]
    async with workers(tmp_path, {"g": graphs.chain(*names)}, 1) as (a,):
        await done(a, "g", **FRESH, config={"recursion_limit": 100})
        states = await past(a)
        assert [one.metadata["step"] for one in states] == list(range(2 * _PAGE, -2, -1))
        limited = [one async for one in a.threads.history("t", limit=_PAGE + 1)]
        assert limited == states[: _PAGE + 1]


async def test_state_of_an_unknown_checkpoint_is_none(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        await done(a, "g", **FRESH)
        assert await a.threads.state("t", CheckpointRef("1f000000-0000-6000-8000-000000000000")) is None


@pytest.mark.parametrize("persistent", [False, True])
async def test_subgraph_has_a_state_and_a_history(tmp_path: Path, persistent: bool) -> None:
    async with workers(tmp_path, {"g": graphs.nested(questions=True, persistent=persistent)}) as (a, b):
        await done(a, "g", **FRESH)
        namespace = (await view(b)).tasks[0]["checkpoint"]["checkpoint_ns"]
        inner = await b.threads.state("t", CheckpointRef(None, namespace))
        assert inner is not None
        assert inner.next == ("x",)
        assert inner.interrupts[0].value == {"q": "inner"}
        own = "inner" if persistent else namespace
        states = await past(b, namespace=own)
        assert [one.next for one in states] == [("x",), ("__start__",)]
        assert {(one.checkpoint or CheckpointRef()).checkpoint_ns for one in states} == {own}
        assert await past(b, namespace="unknown") == []


async def test_update_as_a_node_decides_what_is_next(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b", "c")}) as (a, b):
        await done(a, "g", **FRESH)
        new = await b.threads.update_state("t", {"log": ["edited"]}, as_node="a")
        seen = await view(a)
        assert (seen.checkpoint, seen.next) == (new, ("b",))
        assert seen.values == {"log": ["a", "b", "c", "edited"]}
        assert seen.metadata["source"] == "update"
        assert (await done(a, "g"))["log"][-2:] == ["b", "c"]


async def test_list_of_updates_is_applied_in_order(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        await done(a, "g", **FRESH)
        await a.threads.update_state("t", [{"log": ["1"]}, {"log": ["2"]}], as_node="a")
        assert await log(a) == ["a", "1", "2"]


async def test_fork_from_an_earlier_state(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b")}) as (a, b):
        await done(a, "g", **FRESH)
        (at_b,) = [one for one in await past(a) if one.next == ("b",)]
        forked = await b.threads.update_state("t", {"log": ["fork"]}, as_node="a", at=at_b.checkpoint)
        assert await log(a) == ["a", "fork"]
        assert (await view(a)).parent == at_b.checkpoint
        assert await done(a, "g", checkpoint={"checkpoint_id": forked.checkpoint_id}) == {
            "log": ["a", "fork", "b"]
        }


async def test_run_is_repeated_from_an_earlier_state(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b")}, 1) as (a,):
        await done(a, "g", **FRESH)
        (at_b,) = [one for one in await past(a) if one.next == ("b",)]
        assert at_b.checkpoint is not None
        at = {"checkpoint_id": at_b.checkpoint.checkpoint_id}
        assert await done(a, "g", checkpoint=at) == {"log": ["a", "b"]}
        assert await done(a, "g", input={"log": ["new"]}, checkpoint=at) == {"log": ["a", "new", "a", "b"]}


async def test_copy_of_a_checkpoint(tmp_path: Path) -> None:
    """`__copy__` is how clients fork without an update; the engine builds a config of its own for it."""
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        await done(a, "g", **FRESH)
        await a.threads.update_state("t", None, as_node="__copy__")
        seen = await view(a)
        assert (seen.values, seen.metadata["source"]) == ({"log": ["a"]}, "fork")


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "node": ({"log": []}, {"as_node": "no"}, "no"),
    "reducer": ({"log": 5}, {"as_node": "a"}, "values: .*TypeError"),
    "values": ("text", {"as_node": "a"}, "values: "),
    "checkpoint": (
        {"log": []},
        {"as_node": "a", "at": CheckpointRef("1f000000-0000-6000-8000-000000000000")},
        "checkpoint: the thread has no such checkpoint",
    ),
    "subgraph": ({"log": []}, {"at": CheckpointRef(None, "no")}, "Subgraph no not found"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_update_is_refused(tmp_path: Path, case: str) -> None:
    values, options, why = WRONG[case]
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        await done(a, "g", **FRESH)
        before = await past(a)
        with pytest.raises(InvalidArgument, match=why):
            await a.threads.update_state("t", values, **options)
        assert await past(a) == before


async def test_supersteps_of_a_new_thread(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b")}, 1) as (a,):
        await done(a, "g", **FRESH)
        assistant: Assistant = a.assistants.named("g")
        seen: list[CheckpointRef] = []

        class Updates:
            def __getattr__(self, name: str) -> Any:
                return getattr(assistant, name)

            async def run(self, ctx: Any, request: Any) -> Any:
                first = [StateStep({"log": ["in"]}, "__start__")]
                second = [StateStep({"log": ["x"]}, "a"), StateStep({"log": ["y"]}, "b")]
                seen.append(await assistant.update_states(ctx, [first, second]))
                return await assistant.run(ctx, request)

        record = await a.create_or_reject("t2", "g", kwargs={"input": None})
        a.launch(record, Updates())  # type: ignore[arg-type]  # it has what is called of an assistant
        assert await a.wait(record.run_id, timeout=20) == {"log": ["in", "x", "y", "b"]}
        states = await past(a, "t2")
        assert [one.values["log"] for one in states] == [["in", "x", "y", "b"], ["in", "x", "y"], ["in"]]
        assert states[1].checkpoint == seen[0]


# -- descriptions


@pytest.fixture
def nested(tmp_path: Path) -> GraphAssistant:
    return GraphAssistant(graphs.nested(), sqlite_states(tmp_path / "c.db"), name="g", text="A text.")


async def described(assistant: GraphAssistant) -> Any:
    async with assistant.states.opened():
        return await assistant.describe()


async def test_schemas_and_drawing(nested: GraphAssistant, tmp_path: Path) -> None:
    description = await described(nested)
    assert description.text == "A text."
    assert set(description.input_schema["properties"]) == {"log", "answer"}
    assert set(description.state_schema["properties"]) == {"log", "answer"}
    assert [node["id"] for node in description.drawing["nodes"]] == [
        "__start__", "before", "inner", "after", "__end__",
    ]  # fmt: skip
    assert {"source": "before", "target": "inner"} in description.drawing["edges"]
    styled = GraphAssistant(graphs.styled(), sqlite_states(tmp_path / "c.db"), name="g")
    assert (await described(styled)).context_schema["properties"]["tone"]["default"] == "plain"


async def test_drawing_with_subgraphs(nested: GraphAssistant) -> None:
    async with nested.states.opened():
        drawing = (await nested.describe(xray=True)).drawing
    assert {"inner:x", "inner:y"} <= {node["id"] for node in drawing["nodes"]}


async def test_subgraphs_by_namespace(nested: GraphAssistant) -> None:
    async with nested.states.opened():
        every = await nested.subgraphs(recurse=True)
        assert list(every) == ["inner"]
        assert set(every["inner"].input_schema["properties"]) == {"log", "answer"}
        assert list(await nested.subgraphs("inner")) == ["inner"]
        assert await nested.subgraphs("no") == {}


class Odd(TypedDict):
    lock: threading.Lock


async def test_type_without_a_schema_is_anything(tmp_path: Path) -> None:
    async def node(state: Odd) -> Odd:
        return state

    builder: Any = StateGraph(Odd)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    description = await described(GraphAssistant(builder, sqlite_states(tmp_path / "c.db"), name="g"))
    assert description.input_schema is None
    assert list(description.state_schema["properties"]) == ["lock"]
    assert description.drawing is not None
