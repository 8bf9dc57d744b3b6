"""`coordinator.testing`: workers in memory, a clock to advance, crashes."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest

from coordinator import ConflictError, RunContext, RunFailed, testing
from coordinator.errors import StoreUnavailable
from coordinator.event_log import Event
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


async def sleeps(ctx: RunContext) -> dict[str, Any]:
    """Sleeps for `hours` of its input."""
    await asyncio.sleep(ctx.run.kwargs.get("hours", 0) * 3600)
    return {"attempt": ctx.attempt, "fence": ctx.fence}


AGENTS = {"sleeps": sleeps}


async def test_timers_fire_in_order_each_at_its_own_time() -> None:
    """A chain of sleeps of an hour is not overtaken by a timeout of a day."""
    woken: list[float] = []
    with testing.Clock() as clock:
        began = asyncio.get_running_loop().time()

        async def nap() -> None:
            while True:
                await asyncio.sleep(3600)
                woken.append(round(asyncio.get_running_loop().time() - began) / 3600)

        async def for_a_day() -> None:
            async with asyncio.timeout(24 * 3600 + 1):
                await nap()

        task = asyncio.create_task(for_a_day())
        await clock.advance(23 * 3600)
        assert not task.done()
        await clock.advance(2 * 3600)
        assert isinstance(task.exception(), TimeoutError)
    assert woken == [float(hour) for hour in range(1, 25)]


async def test_clock_moves_all_clocks_of_a_worker_alike() -> None:
    with testing.Clock() as clock:
        before = (clock.boottime(), clock.monotonic(), clock.wall() / 1e6)
        await clock.advance(1000)
        after = (clock.boottime(), clock.monotonic(), clock.wall() / 1e6)
    for early, late in zip(before, after, strict=True):
        assert late - early == pytest.approx(1000, abs=1)


async def test_loop_has_its_own_time_again_after_the_block() -> None:
    loop = asyncio.get_running_loop()
    with testing.Clock() as clock:
        await clock.advance(1000)
        assert loop.time() > time.monotonic() + 900
    assert loop.time() < time.monotonic() + 1
    assert not {"time", "call_at", "call_soon", "call_soon_threadsafe"} & vars(loop).keys()


async def test_clocks_nest() -> None:
    loop = asyncio.get_running_loop()
    with testing.Clock() as outer:
        await outer.advance(1000)
        with testing.Clock() as inner:
            await inner.advance(1000)
            assert loop.time() > time.monotonic() + 1900
        assert time.monotonic() + 900 < loop.time() < time.monotonic() + 1100


async def test_clock_is_not_set_back() -> None:
    with testing.Clock() as clock, pytest.raises(ValueError, match="not set back"):
        await clock.advance(-1)


async def test_code_that_never_waits_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.testing.clock.MAX_TURNS", 100)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - code that never waits
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with testing.Clock() as clock, pytest.raises(RuntimeError, match="never waits"):
        await clock.advance(1)
    task.cancel()


def test_loop_without_a_clock_to_advance_is_refused() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def enter() -> None:
        with testing.Clock():
            pass

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match="use asyncio's loop"),
    ):
        runner.run(enter())


def test_debug_mode_reports_no_slow_step(caplog: pytest.LogCaptureFixture) -> None:
    async def a_day() -> None:
        with testing.Clock() as clock:
            await asyncio.sleep(0)
            await clock.advance(86_400)

    with asyncio.Runner(debug=True) as runner:
        runner.run(a_day())
    assert "took" not in caplog.text


async def test_run_that_sleeps_for_less_than_its_limit_succeeds() -> None:
    async with testing.cluster(assistants=AGENTS) as cluster:
        (worker,) = cluster.workers
        run = await worker.create_or_reject("t", "sleeps", kwargs={"hours": 23}, timeout=24 * 3600)
        worker.launch(run)
        await cluster.advance(hours=25)
        assert run.status == "success"


async def test_stamps_follow_the_clock() -> None:
    async with testing.cluster() as cluster:
        (worker,) = cluster.workers
        first = await worker.create_or_reject("t1")
        await cluster.advance(days=3)
        second = await worker.create_or_reject("t2")
    apart = datetime.fromisoformat(second.created_at) - datetime.fromisoformat(first.created_at)
    assert apart.days == 3


async def test_delayed_run_starts_when_its_time_has_come() -> None:
    async with testing.cluster(workers=2, assistants=AGENTS) as cluster:
        one, _ = cluster.workers
        run = await one.create_or_reject("t", "sleeps", after_seconds=7200)
        one.launch(run)
        await cluster.advance(hours=1)
        assert run.status == "pending"
        await cluster.advance(hours=1, seconds=1)
        assert run.status == "success"


async def test_workers_share_threads_and_receive_each_others_signals() -> None:
    async with testing.cluster(workers=2, assistants=AGENTS) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "sleeps", kwargs={"hours": 1})
        one.launch(run)
        with pytest.raises(ConflictError):
            await other.create_or_reject("t")
        replacing = await other.create_or_reject("t", "sleeps", multitask_strategy="interrupt")
        other.launch(replacing)
        await cluster.clock.rest()
        assert (run.status, replacing.status) == ("interrupted", "success")


async def test_settings_are_those_of_the_workers() -> None:
    async with testing.cluster(assistants=AGENTS, run_timeout=60) as cluster:
        (worker,) = cluster.workers
        run = await worker.create_or_reject("t", "sleeps", kwargs={"hours": 1})
        worker.launch(run)
        await cluster.advance(minutes=2)
        assert run.status == "timeout"


async def test_crashed_worker_writes_nothing_and_its_waiting_run_goes_on() -> None:
    stopped = asyncio.Event()
    refused: list[BaseException] = []

    async def stubborn(ctx: RunContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await ctx.save({"written": "after the crash"})
            except Exception as error:  # noqa: BLE001 - which one is asserted
                refused.append(error)
            stopped.set()

    agents = {**AGENTS, "stubborn": stubborn}
    async with testing.cluster(workers=2, assistants=agents) as cluster:
        one, other = cluster.workers
        running = await one.create_or_reject("t", "stubborn")
        waiting = await one.create_or_reject("t", "sleeps", multitask_strategy="enqueue")
        one.launch(running)
        one.launch(waiting)
        await cluster.clock.rest()
        assert running.status == "running"

        await cluster.crash(one)

        assert cluster.workers == (other,)
        assert stopped.is_set()
        assert len(refused) == 1
        with pytest.raises(RunFailed, match="dead"):
            await other.wait(running.run_id)
        assert await other.wait(waiting.run_id) == {"attempt": 1, "fence": 2}
        row = await cluster.store.thread("t")
        assert row is not None
        assert row.values != {"written": "after the crash"}
        with pytest.raises(ValueError, match="not a living worker"):
            await cluster.crash(one)


async def test_store_of_a_crashed_worker_is_away() -> None:
    async with testing.cluster(workers=2) as cluster:
        one, _ = cluster.workers
        await cluster.crash(one)
        with pytest.raises(StoreUnavailable):
            await one.worker.fleet()


async def test_last_worker_may_crash_and_another_one_finds_its_runs() -> None:
    async with testing.cluster(assistants=AGENTS) as cluster:
        (only,) = cluster.workers
        run = await only.create_or_reject("t", "sleeps", kwargs={"hours": 1})
        only.launch(run)
        await cluster.clock.rest()
        await cluster.crash(only)
        restarted = await cluster.start()
        await cluster.advance(seconds=1)
        with pytest.raises(RunFailed):
            await restarted.wait(run.run_id)
        assert restarted.worker.epoch > only.worker.epoch > 0


async def test_other_worker_follows_events() -> None:
    async def emits(ctx: RunContext) -> None:
        for number in range(3):
            await ctx.emit("custom", number)
            await asyncio.sleep(60)

    async with testing.cluster(workers=2, assistants={"emits": emits}) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "emits")
        one.launch(run)
        seen: list[Any] = []

        async def follow() -> None:
            seen.extend([item.data async for item in other.follow(run.run_id) if isinstance(item, Event)])

        following = asyncio.create_task(follow())
        await cluster.advance(hours=1)
        await wait_until(following.done, description="the follower has come to the end")
    assert seen == [0, 1, 2]
