"""The undo data that a storage keeps for a rollback goes when its run has settled, also if its worker has
died."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunRecord, RunStatus, open_coordinator
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

GRAPH = "graph"
OPENS: dict[str, Any] = {**QUICK, "lease_ttl": 1.5}


def worker(folder: Path, *, assistants: bool = True) -> AbstractAsyncContextManager[RunManager]:
    graph = GraphLikeAssistant(CheckpointStates(folder / "checkpoints.db"), name=GRAPH)
    return open_coordinator(
        f"sqlite:///{folder}/runs.db", assistants={GRAPH: graph} if assistants else {}, **OPENS
    )


@pytest.fixture
async def team(tmp_path: Path, no_task_left: None) -> AsyncGenerator[list[RunManager]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(tmp_path)) for _ in range(2)]


def storage_of(manager: RunManager) -> CheckpointStates:
    states = manager.assistants.named(GRAPH).states
    assert isinstance(states, CheckpointStates)
    return states


async def steps(manager: RunManager, number: int = 3) -> RunRecord:
    """A run for ever that has made so many steps."""
    run = await manager.create_or_reject("t", GRAPH, kwargs={"input": {"sleep": 0.01, "steps": 100_000}})
    manager.launch(run)
    await wait_until(
        lambda: len(storage_of(manager).dump()) > number, description=f"{number} steps", timeout=20
    )
    assert {run_id for run_id, _ in storage_of(manager).undo_log()} == {run.run_id}
    return run


async def dies(manager: RunManager) -> None:
    await assembly_of(manager).loops.stop()
    await assembly_of(manager).pacemaker.stop()


def has_settled(manager: RunManager, run: RunRecord) -> Callable[[], Any]:
    async def settled() -> bool:
        return (await manager.runs.explain(run.run_id)).run.settled

    return settled


async def forgotten(manager: RunManager) -> None:
    await wait_until(
        lambda: not storage_of(manager).undo_log(), description="its undo data is removed", timeout=20
    )


async def test_undo_data_of_an_orphan_is_removed_by_the_worker_that_ends_it(team: list[RunManager]) -> None:
    a, b = team
    run = await steps(a)
    await dies(a)
    await wait_until(has_settled(b, run), description="its peer has ended it", timeout=20)
    assert (await b.runs.explain(run.run_id)).run.status is RunStatus.error
    await forgotten(b)


async def test_undo_data_of_an_adopted_rollback_is_removed(team: list[RunManager]) -> None:
    a, b = team
    run = await steps(a)
    held = hold_calls(storage_of(a), "restore")
    assert await b.cancel(run.run_id, action="rollback")
    await held.reached.wait()
    await dies(a)
    await wait_until(has_settled(b, run), description="its peer has undone it", timeout=20)
    assert storage_of(b).dump() == []
    await forgotten(b)
    held.go_on.set()


async def test_storage_that_fails_to_forget_delays_no_recovery(
    team: list[RunManager], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    run = await steps(a)
    queued = await b.create_or_reject("t", GRAPH, kwargs={"input": {}}, multitask_strategy="enqueue")
    b.launch(queued)

    async def fails(*_: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(storage_of(b), "forget", fails)
    with caplog.at_level(logging.WARNING):
        await dies(a)
        assert await b.wait(queued.run_id, timeout=20)
        line = f"Rollback data of run {run.run_id!r} could not be removed"
        await wait_until(lambda: line in caplog.text, description="it is logged")
    assert run.run_id in {run_id for run_id, _ in storage_of(b).undo_log()}
    await b.threads.delete("t")
    assert storage_of(b).undo_log() == [], "it goes with the thread"


async def test_worker_without_the_storage_ends_the_run(tmp_path: Path, no_task_left: None) -> None:
    async with worker(tmp_path) as a, worker(tmp_path, assistants=False) as b:
        run = await steps(a)
        await dies(a)
        await wait_until(has_settled(b, run), description="its peer has ended it", timeout=20)
        await asyncio.sleep(0)
        assert (await b.runs.explain(run.run_id)).run.status is RunStatus.error
