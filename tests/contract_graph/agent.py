"""A graph that does what the demo assistant `agent` does: each of its steps is one of the graph."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    sleep: float
    steps: int
    fail: bool
    tag: str
    done: int
    log: Annotated[list[str], operator.add]


async def begin(state: State) -> State:
    return {"done": 0, "log": []}


async def step(state: State) -> State:
    number = state.get("done", 0) + 1
    await asyncio.sleep(state.get("sleep", 0))
    if state.get("fail") and number == state.get("steps", 1):
        raise ValueError("demo failure requested")
    return {"done": number, "log": [f"{state.get('tag', 'run')}:{number}"]}


def after(state: State) -> str:
    return "step" if state.get("done", 0) < state.get("steps", 1) else END


builder: Any = StateGraph(State)
builder.add_node("begin", begin)
builder.add_node("step", step)
builder.add_edge(START, "begin")
builder.add_conditional_edges("begin", after, ["step", END])
builder.add_conditional_edges("step", after, ["step", END])
graph = builder.compile()
