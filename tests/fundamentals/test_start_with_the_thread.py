"""A run that is launched as soon as it is admitted starts in the transaction that gives it its thread: at
admission, or when the run before it finishes."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from coordinator import RunContext, RunManager, RunRecord, RunStatus
from coordinator.errors import StoreUnavailable
from stores.rows import Finish, Ownership
from tests.support.teams import on_every_store

_may_end: dict[str, asyncio.Event] = {}
"""By thread."""


async def assistant(ctx: RunContext) -> dict[str, Any]:
    await _may_end[ctx.run.thread_id].wait()
    return {"began with": ctx.values, "run": ctx.run.run_id}


@pytest.fixture(autouse=True)
def may_end() -> Generator[asyncio.Event]:
    """The runs of thread "t" end when it is set."""
    _may_end["t"] = asyncio.Event()
    yield _may_end["t"]
    del _may_end["t"]


pytestmark = [on_every_store, pytest.mark.assistants(assistant=assistant)]


@pytest.fixture
def workers(team: list[RunManager], monkeypatch: pytest.MonkeyPatch) -> list[RunManager]:
    """No run of theirs starts in a transaction of its own."""

    async def start(own: Ownership, ref: Any) -> None:
        raise AssertionError(f"run {own.run_id} starts in a transaction of its own")

    for manager in team:
        monkeypatch.setattr(manager.store, "start", start)
    return team


async def launched(manager: RunManager, thread_id: str = "t") -> RunRecord:
    spec = manager.spec(thread_id, "assistant", multitask_strategy="enqueue")
    run = await manager.admit(spec, start=True)
    manager.launch(run)
    return run


async def test_run_on_a_free_thread_starts_with_its_admission(
    workers: list[RunManager], may_end: asyncio.Event
) -> None:
    a, b = workers
    may_end.set()
    first = await launched(a)
    assert await a.wait(first.run_id) == {"began with": None, "run": first.run_id}
    second = await launched(a)
    assert (await b.wait(second.run_id, timeout=20))["began with"]["run"] == first.run_id
    explained = await b.runs.explain(second.run_id)
    assert [step.what for step in explained.transitions] == ["admitted", "started", "finished"]


@pytest.mark.settings(tick=3600.0, short_tick=3600.0)
async def test_queue_starts_run_by_run_as_each_finishes(
    workers: list[RunManager], may_end: asyncio.Event
) -> None:
    """No tick reads a row before the answer of its transaction has arrived: it would start the run again."""
    a, _ = workers
    runs = [await launched(a) for _ in range(5)]
    may_end.set()
    results = await asyncio.gather(*(a.wait(run.run_id, timeout=20) for run in runs))
    began = [result["began with"] and result["began with"]["run"] for result in results]
    assert began == [None, *(run.run_id for run in runs[:-1])]


async def test_run_that_was_cancelled_before_its_launch_does_not_run(
    workers: list[RunManager], may_end: asyncio.Event
) -> None:
    a, b = workers
    may_end.set()
    run = await a.admit(a.spec("t", "assistant"), start=True)
    assert (await b.runs.get(run.run_id)).status is RunStatus.running
    assert await b.cancel(run.run_id)
    await run.abort_event.wait()
    a.launch(run)
    assert await b.wait(run.run_id, timeout=20) is None
    assert (await b.runs.get(run.run_id)).result is None
    again = await launched(a)
    assert (await a.wait(again.run_id, timeout=20))["began with"] is None


async def test_lost_answer_of_the_finish_loses_no_run_behind_it(
    team: list[RunManager], may_end: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finish is committed with the start of the next run, and the worker learns of neither."""
    a, _ = team
    finish, lost = a.store.finish, list[Finish]()

    async def without_answer(*args: Any, **options: Any) -> Finish:
        answer = await finish(*args, **options)
        if answer.claimed is not None and not lost:
            lost.append(answer)
            raise StoreUnavailable("the answer is lost")
        return answer

    monkeypatch.setattr(a.store, "finish", without_answer)
    runs = [await launched(a) for _ in range(3)]
    may_end.set()
    for run in runs:
        assert (await a.wait(run.run_id, timeout=20))["run"] == run.run_id
    assert lost
