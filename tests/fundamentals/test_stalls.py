"""Code of a run that blocks the event loop is detected while it does so, and named."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunContext, RunManager
from coordinator.workers.stall import StallWatch
from tests.support.inside import assembly_of, note_turn, sample_of, stalls_after
from tests.support.teams import team_of
from tests.support.waiting import wait_until

LIMIT = 10.0  # a blocked loop is released after this time (s) in any case


def test_lag_is_not_understated_by_answers_that_come_soon_after_a_stall() -> None:
    now = 100.0
    watch = StallWatch(clock=lambda: now, stalled_after=2.0, recall=10.0)
    now += 5.0
    note_turn(watch, 100.0)
    assert watch.lag == 5.0
    note_turn(watch, now)
    now += 9.0
    assert watch.lag == 5.0
    now += 2.0
    assert watch.lag == 0.0


async def test_listener_that_fails_is_called_again() -> None:
    watch, calls, again = StallWatch(stalled_after=2.0, recall=10.0), list[float](), asyncio.Event()
    loop = asyncio.get_running_loop()

    def failing(stalled_for: float) -> None:
        calls.append(stalled_for)
        if len(calls) == 2:
            loop.call_soon_threadsafe(again.set)
        raise RuntimeError("a fault of the listener")

    watch.listeners.append(failing)
    watch.start()
    try:
        async with asyncio.timeout(10):
            await again.wait()
    finally:
        watch.stop()


class Blocked:
    """Blocks an event loop until another thread releases it."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def stand(self) -> None:
        self.reached.set()
        self.go_on.wait(LIMIT)


@contextmanager
def quickly_noticed(manager: RunManager) -> Generator[StallWatch]:
    stall = assembly_of(manager).pacemaker.stall
    assert stall is not None
    stalls_after(stall, 0.3)
    yield stall


def seen_from_a_thread(blocked: Blocked, look: Any) -> tuple[threading.Thread, list[Any]]:
    """Starts a thread that calls `look` while the loop is blocked, until the result is true, and then
    releases the loop. Returns the thread, and a list that receives the result."""
    results: list[Any] = []

    def looking() -> None:
        blocked.reached.wait(LIMIT)
        until, seen = time.monotonic() + LIMIT, look()
        while time.monotonic() < until and not seen:
            time.sleep(0.01)
            seen = look()
        results.append(seen)
        blocked.go_on.set()

    thread = threading.Thread(target=looking, daemon=True)
    thread.start()
    return thread, results


@pytest.mark.parametrize("in_a_task_of_its_own", [False, True], ids=["the run's task", "a task of the run's"])
async def test_stall_is_logged_once_with_the_run_and_the_line_while_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_a_task_of_its_own: bool
) -> None:
    blocked = Blocked()

    async def thinking_hard() -> None:
        blocked.stand()

    async def agent(ctx: RunContext) -> None:
        if in_a_task_of_its_own:
            await asyncio.create_task(thinking_hard())
        else:
            await thinking_hard()

    async with team_of(1, tmp_path) as (manager,):
        run = await manager.create_or_reject("t")

        def lines() -> list[str]:
            return [r.getMessage() for r in caplog.records if r.name == "coordinator.workers.stall"]

        with quickly_noticed(manager):
            thread, logged = seen_from_a_thread(blocked, lambda: manager.worker.stalled_for > 0.6 and lines())
            manager.launch(run, agent)
            await manager.wait(run.run_id, timeout=20)
            await asyncio.to_thread(thread.join)
            assert manager.worker.stalled_for == 0
    ((line,),) = logged
    assert lines() == [line]
    assert repr(run.run_id) in line
    assert "test_stalls.py" in line
    assert "thinking_hard" in line
    assert "\n" not in line


class TestOnUvloop:
    """The handles of uvloop are no Python objects: the stall is attributed by the running task."""

    @staticmethod
    def logged(
        folder: Path, caplog: pytest.LogCaptureFixture, block: Callable[[RunManager, Blocked], Awaitable[Any]]
    ) -> str:
        """Returns the log line of the stall that `block` causes."""

        async def stalled() -> list[Any]:
            blocked = Blocked()
            async with team_of(1, folder) as (manager,):
                with quickly_noticed(manager):
                    thread, logged = seen_from_a_thread(
                        blocked,
                        lambda: [
                            r.getMessage() for r in caplog.records if r.name == "coordinator.workers.stall"
                        ],
                    )
                    await block(manager, blocked)
                    await asyncio.to_thread(thread.join)
            return logged

        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ((line,),) = runner.run(stalled())
        return line

    def test_stall_of_a_run_names_the_run(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        admitted: list[str] = []

        async def block(manager: RunManager, blocked: Blocked) -> None:
            async def agent(ctx: RunContext) -> None:
                blocked.stand()

            run = await manager.create_or_reject("t")
            admitted.append(run.run_id)
            manager.launch(run, agent)
            await manager.wait(run.run_id, timeout=20)

        line = self.logged(tmp_path, caplog, block)
        assert f"It is blocked in code of run {admitted[0]!r} on thread 't', at " in line

    def test_stall_of_a_callback_names_an_unknown_run(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def block(manager: RunManager, blocked: Blocked) -> None:
            asyncio.get_running_loop().call_soon(blocked.stand)
            await asyncio.sleep(0.01)

        assert "It is blocked in code of an unknown run, at " in self.logged(tmp_path, caplog, block)


async def test_health_is_red_after_a_stall_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.workers.health.STALLED_AFTER", 0.3)
    blocked = Blocked()
    async with team_of(1, tmp_path) as (manager,):
        await manager.create_or_reject("t")
        with quickly_noticed(manager) as stall:
            thread, seen = seen_from_a_thread(blocked, lambda: stall.stalled_for > 0.4)
            blocked.stand()
            await asyncio.to_thread(thread.join)
            assert seen == [True]
            assert any("event loop" in reason for reason in (await manager.worker.health()).why_not)

            async def ready() -> bool:
                return (await manager.worker.health()).ready

            await wait_until(ready, description="it is green again")


async def test_metric_of_a_stall_is_right_while_it_lasts(tmp_path: Path) -> None:
    from coordinator.gateway.long_lived_responses import Watchers
    from coordinator.gateway.metrics import Metrics

    blocked = Blocked()
    async with team_of(1, tmp_path) as (manager,):
        await manager.create_or_reject("t")
        metrics = Metrics(manager.worker, Watchers(1, 1))
        await metrics.refresh()

        def value(name: str) -> float:
            return sample_of(metrics, f"coordinator_worker_{name}") or 0.0

        assert (value("ready"), value("loop_stalled_seconds")) == (1, 0)
        with quickly_noticed(manager):
            thread, seen = seen_from_a_thread(
                blocked,
                lambda: value("loop_stalled_seconds") and (value("ready"), value("loop_stalled_seconds")),
            )
            blocked.stand()
            await asyncio.to_thread(thread.join)
            ((ready, stalled),) = seen
            assert ready == 0
            assert stalled >= 0.3
            await wait_until(
                lambda: value("loop_stalled_seconds") == 0, description="the metric shows no stall"
            )
        await metrics.refresh()
