"""As `bench.worker`, with the runs of a graph, whose one step is held."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph

from bench.worker import Commands, main
from coordinator import RunContext, RunRecord
from coordinator.context import current_run
from coordinator.langgraph import GraphAssistant, sqlite_states

Step = Callable[[RunContext], Awaitable[None]]


class State(TypedDict):
    held: bool


class GraphCommands(Commands):
    """{"do": "hold", "thread": t} holds the node of a graph."""

    steps: ClassVar[dict[str, Step]] = {}

    def launch(self, run: RunRecord, step: Step) -> None:
        self.steps[run.run_id] = step
        self._manager.launch(run)


def _graph() -> Any:
    async def hold(_: State) -> State:
        context = current_run.get()
        if context is not None:
            await GraphCommands.steps[context.run.run_id](context)
        return {"held": True}

    builder: Any = StateGraph(State)
    builder.add_node("hold", hold)
    builder.add_edge(START, "hold")
    builder.add_edge("hold", END)
    return builder


if __name__ == "__main__":
    store = sys.argv[1]
    checkpoints = Path(store.removeprefix("sqlite:///")).with_name("checkpoints.db")
    graph = GraphAssistant(_graph(), sqlite_states(checkpoints), name="agent")
    redis = sys.argv[2] if len(sys.argv) > 2 else None
    asyncio.run(main(store, redis, GraphCommands, assistants=[graph]))
