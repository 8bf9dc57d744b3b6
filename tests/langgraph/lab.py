"""Workers that share two files, one of runs and one of checkpoints, each with its own objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from coordinator import RunManager, RunRecord, StateView, open_coordinator
from coordinator.langgraph import GraphAssistant, sqlite_states
from tests.support.teams import QUICK

Make = Callable[[], dict[str, Any]]
"""Makes the graphs of one worker by name."""


@asynccontextmanager
async def workers(
    folder: Path, graphs: dict[str, Any], size: int = 2, *, retries: int = 1
) -> AsyncGenerator[list[RunManager]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_coordinator(
                    f"sqlite:///{folder}/runs.db",
                    assistants=assistants(folder, graphs, retries=retries),
                    **QUICK,
                )
            )
            for _ in range(size)
        ]


def assistants(folder: Path, graphs: dict[str, Any], *, retries: int = 1) -> dict[str, Any]:
    states = sqlite_states(folder / "checkpoints.db", synchronous="NORMAL")
    return {name: GraphAssistant(graph, states, name=name, retries=retries) for name, graph in graphs.items()}


async def begun(
    manager: RunManager, graph: str, *, thread: str = "t", strategy: str = "reject", **request: Any
) -> RunRecord:
    record = await manager.create_or_reject(
        thread, graph, kwargs={"input": None, **request}, multitask_strategy=strategy
    )
    manager.launch(record)
    return record


async def done(manager: RunManager, graph: str, **request: Any) -> Any:
    record = await begun(manager, graph, **request)
    return await manager.wait(record.run_id, timeout=20)


async def view(manager: RunManager, thread: str = "t", **options: Any) -> StateView:
    view = await manager.threads.state(thread, **options)
    assert view is not None
    return view


async def log(manager: RunManager, thread: str = "t") -> list[str]:
    return (await view(manager, thread)).values.get("log", [])


async def past(manager: RunManager, thread: str = "t", **options: Any) -> list[StateView]:
    return [view async for view in manager.threads.history(thread, limit=1000, **options)]
