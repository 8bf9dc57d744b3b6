"""`sys.exit()` and KeyboardInterrupt in a node end its run alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from coordinator import RunFailed
from coordinator.runs.exits import contain_tasks
from tests.langgraph.graphs import Log, Waiting
from tests.langgraph.lab import begun, done, workers


def raising(error: BaseException, *, sync: bool, beside: bool) -> Any:
    """One node raises, as a plain function if `sync`; another runs `beside` it."""

    async def node(state: Log) -> Log:
        raise error

    def plain(state: Log) -> Log:
        raise error

    async def other(state: Log) -> Log:
        return {"log": ["other"]}

    builder: Any = StateGraph(Log)
    builder.add_node("node", plain if sync else node)
    builder.add_edge(START, "node")
    if beside:
        builder.add_node("other", other)
        builder.add_edge(START, "other")
    return builder


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_node_that_exits_ends_its_run_alone(
    tmp_path: Path, error: BaseException, sync: bool, beside: bool
) -> None:
    waiting = Waiting()
    made = {"bad": raising(error, sync=sync, beside=beside), "good": waiting.graph}
    loop = asyncio.get_running_loop()
    contain_tasks(loop)
    try:
        async with workers(tmp_path, made, 1) as (a,):
            a.worker.install_executor()
            neighbour = await begun(a, "good", thread="other", input={"log": []})
            await waiting.reached.wait()
            with pytest.raises(RunFailed, match=r"KeyboardInterrupt|sys\.exit\(3\)"):
                await done(a, "bad", input={"log": []})
            waiting.released.set()
            assert await a.wait(neighbour.run_id, timeout=20) == {"log": ["a", "b", "c"]}
            assert not await a.has_inflight("t")
    finally:
        loop.set_task_factory(None)
