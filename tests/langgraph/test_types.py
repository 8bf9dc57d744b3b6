"""Values of Python types in the state of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langgraph.checkpoint.serde import jsonplus
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from coordinator import open_coordinator
from coordinator.langgraph import GraphAssistant, sqlite_states
from tests.langgraph.lab import done, view


class Order(BaseModel):
    number: int


@dataclass
class Line:
    order: Order


class Part(BaseModel):
    name: str


class Place(NamedTuple):
    shelf: int
    part: Part


class Typed(TypedDict, total=False):
    line: Line
    places: list[Place]
    orders: list[Order]
    other: Any
    seen: list[str]


@dataclass
class Other:
    number: int


class Question(BaseModel):
    text: str


async def make(state: Typed) -> Typed:
    return {
        "line": Line(Order(number=1)),
        "places": [Place(4, Part(name="nut"))],
        "orders": [Order(number=2)],
        "other": Other(3),
    }


async def question(state: Any) -> Typed:
    seen = [
        type(one).__name__
        for one in (
            state["line"],
            state["line"].order,
            state["places"][0],
            state["orders"][0],
            state["other"],
        )
    ]
    interrupt(Question(text="?"))
    return {"seen": seen}


def typed() -> Any:
    builder: Any = StateGraph(Typed)
    builder.add_node("make", make)
    builder.add_node("question", question)
    builder.add_edge(START, "make")
    builder.add_edge("make", "question")
    return builder


@pytest.fixture
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine logs each type once per process."""
    monkeypatch.setattr(jsonplus, "_warned_blocked_types", set[tuple[str, str]]())


@pytest.mark.usefixtures("nothing_logged_yet")
@pytest.mark.parametrize("as_factory", [False, True])
async def test_annotated_types_are_restored(
    tmp_path: Path, as_factory: bool, caplog: pytest.LogCaptureFixture
) -> None:
    states = sqlite_states(tmp_path / "c.db")
    graph = typed if as_factory else typed()
    named = [GraphAssistant(graph, states, name="g")]
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        await done(a, "g", input={})
        seen = await view(a)
        assert seen.values == {
            "line": {"order": {"number": 1}},
            "places": [{"shelf": 4, "part": {"name": "nut"}}],
            "orders": [{"number": 2}],
            "other": {"number": 3},
        }
        assert seen.interrupts[0].value == {"text": "?"}
        answered = await done(a, "g", command={"resume": 1})
        assert answered["seen"] == ["Line", "Order", "Place", "Order", "dict"]
        await a.threads.update_state("t", {"other": 1}, at=seen.checkpoint)
    blocked = {record.args[:2] for record in caplog.records if "Blocked" in record.msg}  # type: ignore[index]
    assert blocked == {(__name__, "Other"), (__name__, "Question")}


async def test_further_types_are_restored_if_allowed(tmp_path: Path) -> None:
    states = sqlite_states(tmp_path / "c.db", allowed=[Other])
    named = [GraphAssistant(typed(), states, name="g")]
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        await done(a, "g", input={})
        assert (await done(a, "g", command={"resume": 1}))["seen"][-1] == "Other"
