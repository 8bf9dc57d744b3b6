"""Values of Python types in the state of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
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


class Typed(TypedDict, total=False):
    line: Line
    orders: list[Order]
    other: Any
    seen: list[str]


@dataclass
class Other:
    number: int


class Question(BaseModel):
    text: str


async def make(state: Typed) -> Typed:
    return {"line": Line(Order(number=1)), "orders": [Order(number=2)], "other": Other(3)}


async def question(state: Any) -> Typed:
    seen = [
        type(one).__name__ for one in (state["line"], state["line"].order, state["orders"][0], state["other"])
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


@pytest.mark.parametrize("as_factory", [False, True])
async def test_annotated_types_are_restored(tmp_path: Path, as_factory: bool) -> None:
    states = sqlite_states(tmp_path / "c.db")
    graph = typed if as_factory else typed()
    named = [GraphAssistant(graph, states, name="g")]
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        await done(a, "g", input={})
        seen = await view(a)
        assert seen.values == {
            "line": {"order": {"number": 1}},
            "orders": [{"number": 2}],
            "other": {"number": 3},
        }
        assert seen.interrupts[0].value == {"text": "?"}
        assert (await done(a, "g", command={"resume": 1}))["seen"] == ["Line", "Order", "Order", "dict"]


async def test_further_types_are_restored_if_allowed(tmp_path: Path) -> None:
    states = sqlite_states(tmp_path / "c.db", allowed=[Other])
    named = [GraphAssistant(typed(), states, name="g")]
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        await done(a, "g", input={})
        assert (await done(a, "g", command={"resume": 1}))["seen"][-1] == "Other"
