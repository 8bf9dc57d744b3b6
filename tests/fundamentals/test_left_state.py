"""A run of an assistant that keeps its own state leaves that state on its thread, however the run ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunFailed, RunManager, RunRecord, RunStatus, StateView, open_coordinator
from stores.rows import ThreadRow
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.held import hold_calls
from tests.support.inside import assembly_of
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

GRAPH = "graph"
FOR_EVER: dict[str, Any] = {"sleep": 0.01, "steps": 100_000}


def worker(folder: Path, **settings: Any) -> AbstractAsyncContextManager[RunManager]:
    graph = GraphLikeAssistant(CheckpointStates(folder / "checkpoints.db"), name=GRAPH, saves=False)
    given: dict[str, Any] = {**QUICK, **settings}
    return open_coordinator(f"sqlite:///{folder}/runs.db", assistants={GRAPH: graph}, **given)


@pytest.fixture
async def team(tmp_path: Path, no_task_left: None) -> AsyncGenerator[list[RunManager]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(tmp_path)) for _ in range(2)]


def graph_of(manager: RunManager) -> GraphLikeAssistant:
    graph = manager.assistants.named(GRAPH)
    assert isinstance(graph, GraphLikeAssistant)
    return graph


async def begun(manager: RunManager, given: Any, resume: Any = None, **admission: Any) -> RunRecord:
    kwargs = {"input": given} if resume is None else {"input": None, "command": {"resume": resume}}
    run = await manager.create_or_reject("t", GRAPH, kwargs=kwargs, **admission)
    manager.launch(run)
    return run


async def done(manager: RunManager, **given: Any) -> Any:
    run = await begun(manager, given)
    return await manager.wait(run.run_id, timeout=20)


async def steps(manager: RunManager, number: int) -> None:
    async def made() -> bool:
        view = await manager.threads.state("t")
        values: Any = None if view is None else view.values
        return values is not None and len(values.get("log", [])) >= number

    await wait_until(made, description=f"{number} steps", timeout=20)


async def same(manager: RunManager) -> tuple[ThreadRow, StateView]:
    """The thread and its state, which have the same values and interrupts."""
    thread, view = await manager.threads.get("t"), await manager.threads.state("t")
    assert view is not None
    assert view.values["log"]
    assert thread.values == view.values
    assert (thread.interrupts or []) == [one.stored for one in view.interrupts]
    return thread, view


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_cancelled_run_leaves_its_finished_steps(team: list[RunManager], second: int) -> None:
    a, b = team[0], team[second]
    run = await begun(a, FOR_EVER)
    await steps(b, 3)
    assert await b.cancel(run.run_id, wait=10)
    thread, _ = await same(b)
    assert thread.status == "interrupted"
    row = (await b.runs.explain(run.run_id)).run
    assert (row.status, row.result, row.interrupts, row.paused) == (RunStatus.interrupted, None, None, False)


async def test_failed_run_leaves_its_finished_steps(team: list[RunManager]) -> None:
    with pytest.raises(RunFailed, match="demo failure"):
        await done(team[0], steps=3, fail=True)
    thread, view = await same(team[1])
    assert (thread.status, view.values["done"]) == ("error", 2)


async def test_run_that_exceeds_its_time_leaves_its_finished_steps(team: list[RunManager]) -> None:
    run = await begun(team[0], FOR_EVER, timeout=0.5)
    with pytest.raises(RunFailed):
        await team[0].wait(run.run_id, timeout=20)
    assert (await team[1].runs.explain(run.run_id)).run.status is RunStatus.timeout
    await same(team[1])


async def test_answered_question_leaves_the_thread_with_a_cancelled_run(team: list[RunManager]) -> None:
    a, b = team
    await done(a, pause_before=[2], **FOR_EVER)
    paused, _ = await same(a)
    assert paused.interrupts
    run = await begun(b, None, resume="yes")
    await steps(a, 3)
    assert await a.cancel(run.run_id, wait=10)
    thread, _ = await same(a)
    assert (thread.interrupts, thread.status) == (None, "interrupted")


async def test_open_question_stays_where_a_run_is_cancelled_before_it_answers(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = team
    await done(a, pause_before=[2], **FOR_EVER)
    gate = asyncio.Event()
    opening = graph_of(b).states.get

    async def slow(*args: Any) -> Any:
        await gate.wait()
        return await opening(*args)

    monkeypatch.setattr(graph_of(b).states, "get", slow)
    run = await begun(b, None, resume="yes")
    await wait_until(lambda: run.status is RunStatus.running, description="it runs")
    cancelling = asyncio.create_task(a.cancel(run.run_id, wait=10))
    assert run.task is not None
    await asyncio.wait((run.task,), timeout=10)
    gate.set()
    assert await cancelling
    thread, _ = await same(a)
    assert thread.interrupts


async def test_question_of_a_run_that_swallows_its_cancel_is_on_the_thread(team: list[RunManager]) -> None:
    a, _ = team
    graph = graph_of(a)
    run_code = graph.run

    async def swallows(ctx: Any, request: Any) -> Any:
        while ctx.abort is None:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                break
        ctx.save = None
        return await run_code(ctx, request)

    graph.run = swallows
    run = await begun(a, {"steps": 3, "pause_before": [2]})
    await wait_until(lambda: run.status is RunStatus.running, description="it runs")
    assert await a.cancel(run.run_id, wait=10)
    view = await a.threads.state("t")
    thread = await a.threads.get("t")
    assert view is not None
    assert (thread.values, bool(thread.interrupts)) == (view.values, bool(view.interrupts))


async def test_rolled_back_run_leaves_what_was_before(team: list[RunManager]) -> None:
    a, b = team
    await done(a, steps=2)
    before, _ = await same(a)
    run = await begun(a, FOR_EVER)
    await steps(b, 4)
    assert await b.cancel(run.run_id, action="rollback", wait=10)
    after, _ = await same(b)
    assert (after.values, after.interrupts) == (before.values, before.interrupts)


@pytest.mark.parametrize("how", ["fails", "hangs", "is too large", "is no JSON", "is absent"])
async def test_state_that_cannot_be_read_delays_no_cancel_for_long(
    tmp_path: Path, no_task_left: None, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async with worker(tmp_path, max_values_bytes=2_000) as a:
        run = await begun(a, FOR_EVER)
        await steps(a, 3)
        graph = graph_of(a)
        read = graph.state

        async def state(thread_id: str, *args: Any, **more: Any) -> Any:
            if how == "fails":
                raise OSError("disk on fire")
            if how == "hangs":
                await asyncio.Event().wait()
            if how == "is absent":
                return None
            view = await read(thread_id, *args, **more)
            assert view is not None
            values: Any = {"log": ["x" * 3_000] if how == "is too large" else object()}
            return StateView(values=values, next=view.next)

        graph.state = state
        with caplog.at_level(logging.WARNING):
            assert await a.cancel(run.run_id, wait=10)
        thread = await a.threads.get("t")
        assert (thread.values, thread.status) == (None, "interrupted")
        row = (await a.runs.explain(run.run_id)).run
        assert (row.status, row.error) == (RunStatus.interrupted, None)
        assert ("state of thread 't'" in caplog.text) is (how != "is absent")


async def test_worker_that_has_lost_the_thread_writes_nothing(team: list[RunManager]) -> None:
    """It reads the state while its lease expires; its peer has the thread by then."""
    a, b = team
    run = await begun(a, FOR_EVER)
    await steps(b, 3)
    held = hold_calls(graph_of(a), "state")
    assert await a.cancel(run.run_id)
    await held.reached.wait()
    await assembly_of(a).loops.stop()
    await assembly_of(a).pacemaker.stop()

    async def freed() -> bool:
        return (await b.runs.explain(run.run_id)).run.settled

    await wait_until(freed, description="its peer has settled it", timeout=20)
    await done(b, steps=1, tag="b")
    thread, _ = await same(b)
    held.go_on.set()
    await wait_until(lambda: not assembly_of(a).shared.registry.unsettled(), description="it gives up")
    assert await b.threads.get("t") == thread


async def test_state_of_a_function_is_not_read(
    tmp_path: Path, no_task_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(ctx: Any) -> None:
        await ctx.save({"n": 1})
        await asyncio.Event().wait()

    url = f"sqlite:///{tmp_path}/runs.db"
    async with open_coordinator(url, assistants={"f": hangs}, **QUICK) as manager:
        calls: list[Any] = []

        async def state(*args: Any, **_: Any) -> None:
            calls.append(args)

        monkeypatch.setattr(manager.assistants.named("f"), "state", state)
        run = await manager.create_or_reject("t", "f")
        manager.launch(run)

        async def saved() -> bool:
            thread = await manager.store.thread("t")
            return thread is not None and thread.values == {"n": 1}

        await wait_until(saved, description="it has saved")
        assert await manager.cancel(run.run_id, wait=10)
        assert calls == []
        assert (await manager.threads.get("t")).values == {"n": 1}
