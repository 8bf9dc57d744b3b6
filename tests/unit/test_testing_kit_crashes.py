"""`coordinator.testing`: several callers of one clock, and crashes in the middle of work."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from coordinator import InvalidArgument, RunContext, RunFailed, testing

pytestmark = pytest.mark.usefixtures("no_task_left")

HOUR = 3600


def now() -> float:
    return asyncio.get_running_loop().time()


async def pages(ctx: RunContext) -> dict[str, Any]:
    """Saves a page every ten minutes, for two hours."""
    for page in range(12):
        await asyncio.sleep(600)
        await ctx.save({"page": page + 1})
    return {"pages": 12}


# -- several callers of one clock


async def test_advances_at_once_return_each_at_its_own_time() -> None:
    with testing.Clock() as clock:
        began, woken, returned = now(), list[int](), dict[int, float]()

        async def hourly() -> None:
            while True:
                await asyncio.sleep(HOUR)
                woken.append(round((now() - began) / HOUR))

        async def advance(hours: int) -> None:
            await clock.advance(hours * HOUR + 60)  # the system's clock moves as well
            returned[hours] = (now() - began) / HOUR

        task = asyncio.create_task(hourly())
        await asyncio.gather(advance(3), advance(1), advance(2))
        task.cancel()
    assert woken == [1, 2, 3]
    assert returned == {hours: pytest.approx(hours, abs=0.02) for hours in (1, 2, 3)}
    assert list(returned) == [1, 2, 3]


async def test_advance_within_an_advance_counts_from_its_own_moment() -> None:
    with testing.Clock() as clock:
        began, returned = now(), list[float]()

        async def later() -> None:
            await asyncio.sleep(HOUR)
            await clock.advance(2 * HOUR)
            returned.append((now() - began) / HOUR)

        task = asyncio.create_task(later())
        await clock.advance(2 * HOUR)
        returned.append((now() - began) / HOUR)
        await task
    assert returned == [pytest.approx(2, abs=0.01), pytest.approx(3, abs=0.01)]


async def test_time_stands_while_a_caller_of_rest_is_ready() -> None:
    """What follows a `rest` is ready to run: the clock does not move before that is over."""
    with testing.Clock() as clock:
        moments: list[float] = []

        async def steps() -> None:
            await asyncio.sleep(HOUR)
            for _ in range(5):
                moments.append(now())
                await clock.rest()

        task = asyncio.create_task(steps())
        await asyncio.gather(clock.advance(3 * HOUR), asyncio.sleep(HOUR + 1))
        assert task.done()
    assert moments[-1] - moments[0] < 0.5


async def test_cancelled_advance_leaves_the_others_going() -> None:
    with testing.Clock() as clock:
        began = now()
        short = asyncio.create_task(clock.advance(HOUR))
        long = asyncio.create_task(clock.advance(2 * HOUR))
        asyncio.get_running_loop().call_later(HOUR / 2, short.cancel)
        await long
        assert short.cancelled()
        assert now() - began == pytest.approx(2 * HOUR, abs=1)


async def test_code_that_never_waits_is_reported_to_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.testing.clock.MAX_TURNS", 100)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - code that never waits
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with testing.Clock() as clock:
        errors = await asyncio.gather(clock.advance(1), clock.rest(), return_exceptions=True)
    task.cancel()
    assert ["never waits" in str(error) for error in errors] == [True, True]


async def test_worker_crashes_while_the_time_is_advanced() -> None:
    async with testing.cluster(workers=2, assistants={"pages": pages}) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "pages")
        one.launch(run)

        async def crash_later() -> None:
            await asyncio.sleep(3100)
            await cluster.crash(one)

        crashing = asyncio.create_task(crash_later())
        await cluster.advance(hours=3)
        await crashing
        with pytest.raises(RunFailed, match="dead"):
            await other.wait(run.run_id)
        assert (await other.threads.get("t")).values == {"page": 5}


async def test_worker_crashes_in_the_middle_of_a_save() -> None:
    saving, crashed = asyncio.Event(), asyncio.Event()

    async def saves(ctx: RunContext) -> None:
        await ctx.save({"n": 1})
        await ctx.save({"n": 2})

    async with testing.cluster(workers=2, assistants={"saves": saves}) as cluster:
        one, other = cluster.workers
        save = one.store.save

        async def slow(*args: Any, **named: Any) -> Any:
            answer = await save(*args, **named)
            if not saving.is_set():
                saving.set()
                await asyncio.sleep(600)
            return answer

        one.store.save = slow
        run = await one.create_or_reject("t", "saves")
        one.launch(run)

        async def crash_then() -> None:
            await saving.wait()
            await cluster.crash(one)
            crashed.set()

        await asyncio.gather(cluster.advance(minutes=1), crash_then())
        assert crashed.is_set()
        assert (await other.threads.get("t")).values == {"n": 1}
        with pytest.raises(RunFailed, match="dead"):
            await other.wait(run.run_id)


async def test_all_workers_may_crash_at_once() -> None:
    async with testing.cluster(workers=3, assistants={"pages": pages}) as cluster:
        one, two, three = cluster.workers
        run = await one.create_or_reject("t", "pages")
        one.launch(run)
        await cluster.advance(minutes=15)
        await asyncio.gather(
            cluster.advance(hours=1), cluster.crash(one), cluster.crash(two), cluster.crash(three)
        )
        assert cluster.workers == ()
        restarted = await cluster.start()
        with pytest.raises(RunFailed):
            await restarted.wait(run.run_id)


# -- a crash from within


@pytest.mark.parametrize("advanced", [True, False], ids=["while advanced", "alone"])
async def test_agent_crashes_its_own_worker(advanced: bool) -> None:
    ended = list[str]()

    async def suicidal(ctx: RunContext) -> None:
        try:
            await cluster.crash(one)
            ended.append("returned")
        finally:
            ended.append("finally")

    agents = {"suicidal": suicidal, "pages": pages}
    async with testing.cluster(workers=2, assistants=agents) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "suicidal")
        waiting = await one.create_or_reject("t", "pages", multitask_strategy="enqueue")
        one.launch(run)
        one.launch(waiting)
        await (cluster.advance(minutes=1) if advanced else cluster.clock.rest())
        assert ended == ["finally"]
        assert cluster.workers == (other,)
        with pytest.raises(RunFailed, match="dead"):
            await other.wait(run.run_id)
        await cluster.advance(hours=3)
        assert await other.wait(waiting.run_id) == {"pages": 12}
        with pytest.raises(ValueError, match="not a living worker"):
            await cluster.crash(one)


async def test_crash_by_a_task_that_the_run_tracks() -> None:
    async def tracks(ctx: RunContext) -> None:
        ctx.track(asyncio.create_task(cluster.crash(one)))
        await asyncio.sleep(HOUR)

    async with testing.cluster(workers=2, assistants={"tracks": tracks}) as cluster:
        one, other = cluster.workers
        run = await one.create_or_reject("t", "tracks")
        one.launch(run)
        await cluster.advance(minutes=1)
        with pytest.raises(RunFailed, match="dead"):
            await other.wait(run.run_id)


async def test_block_ends_after_a_crash_whose_caller_was_cancelled() -> None:
    async with testing.cluster(workers=2) as cluster:
        one, other = cluster.workers
        task = asyncio.create_task(cluster.crash(one))
        await asyncio.sleep(0)
        task.cancel()
    assert one.worker.draining
    assert other.worker.draining


async def test_crash_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with testing.cluster(workers=2, assistants={"pages": pages}) as cluster:
        one, _ = cluster.workers
        run = await one.create_or_reject("t", "pages")
        one.launch(run)
        await cluster.advance(minutes=15)
        with caplog.at_level(logging.WARNING):
            await cluster.crash(one)
    assert [record.getMessage() for record in caplog.records] == []


# -- arguments


@pytest.mark.parametrize("name", ["days", "hours", "minutes", "seconds"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, "1"], ids=str)
async def test_time_that_is_none_is_refused(name: str, value: Any) -> None:
    async with testing.cluster() as cluster:
        before = cluster.clock.wall()
        with pytest.raises(InvalidArgument, match=name):
            await cluster.advance(**{name: value})
        assert cluster.clock.wall() - before < 5e6


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1], ids=str)
async def test_clock_refuses_a_time_that_is_none(seconds: float) -> None:
    with testing.Clock() as clock, pytest.raises(InvalidArgument, match="seconds"):
        await clock.advance(seconds)


@pytest.mark.parametrize("workers", [-1, 1.5, True, "2"], ids=str)
async def test_number_of_workers_that_is_none_is_refused(workers: Any) -> None:
    with pytest.raises(InvalidArgument, match="workers"):
        async with testing.cluster(workers):
            pass
