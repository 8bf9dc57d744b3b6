"""A run outlives its worker: another worker continues it from what it has saved. A rolling restart repeats no
step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import Outcome, RunContext, RunFailed, RunManager, RunStatus, assistant
from coordinator.errors import CancelNotDurable
from coordinator.event_log import End, Event, Gap
from stores.errors import StoreUnavailable
from stores.rows import Ownership, RunRow
from tests.fundamentals.test_children import hints_of
from tests.fundamentals.test_portable_runs import gateway
from tests.fundamentals.test_worker_death import SHORT, hang
from tests.support.held import hold_answers, hold_calls
from tests.support.inside import assembly_of
from tests.support.waiting import wait_until

STEPS = 4


class Walk:
    """An agent that takes STEPS steps, saves each, and waits before it takes step `waits_at`. It can be
    continued: it begins with the first step that was not saved. `log`: worker and step, as they are taken."""

    def __init__(self, *, waits_at: int | None = None, heeds_drain: bool = True) -> None:
        self.waits_at, self.heeds_drain = waits_at, heeds_drain
        self.log: list[tuple[str, int]] = []
        self.waiting, self.go_on = asyncio.Event(), asyncio.Event()
        self.attempts: list[int] = []

    def on(self, worker: str, retries: int = 1) -> Any:
        @assistant(name="walk", retries=retries)
        async def walk(ctx: RunContext) -> Any:
            self.attempts.append(ctx.attempt)
            saved: dict[str, list[int]] = ctx.values or {}
            steps = list(saved.get("steps", ()))
            for step in range(len(steps), STEPS):
                if step == self.waits_at and not self.go_on.is_set():
                    self.waiting.set()
                    await self._wait(ctx)
                    if self.heeds_drain and ctx.drain_event.is_set():
                        return Outcome(drained=True)
                self.log.append((worker, step))
                await ctx.emit("custom", step)
                steps.append(step)
                await ctx.save({"steps": steps})
            return {"steps": steps}

        return walk

    async def _wait(self, ctx: RunContext) -> None:
        events = [self.go_on.wait(), *([ctx.drain_event.wait()] if self.heeds_drain else [])]
        waits = [asyncio.ensure_future(event) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def steps(self) -> list[int]:
        return [step for _, step in self.log]


@asynccontextmanager
async def pair(
    folder: Path, walk: Walk, *, retries: int = 1, **lease: Any
) -> AsyncGenerator[tuple[RunManager, RunManager]]:
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(
                gateway(folder, lease={**SHORT, **lease}, walk=walk.on(name, retries))
            )
            for name in ("a", "b")
        ]
        yield a, b


async def begun(manager: RunManager, walk: Walk, **arguments: Any) -> str:
    run = await manager.create_or_reject("t", "walk", **arguments)
    manager.launch(run)
    async with asyncio.timeout(10):
        await walk.waiting.wait()
    return run.run_id


async def row_of(manager: RunManager, run_id: str) -> RunRow:
    row = await manager.store.row(run_id)
    assert row is not None
    return row


async def adopted(manager: RunManager, run_id: str, by: RunManager) -> None:
    async def is_adopted() -> bool:
        return (await row_of(manager, run_id)).owner_epoch == by.worker.epoch

    await wait_until(is_adopted, description="the other worker is the owner of the run")


@pytest.mark.parametrize("lost", [0, 1], ids=["answered", "answer-lost"])
async def test_cancel_that_could_not_be_written_stops_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The store is unavailable until the lease has ended, and a worker has continued the run. That worker
    gets a hint, even if the answer to the commit was lost."""
    walk, away = Walk(waits_at=2), True
    async with pair(tmp_path, walk, tick=3600.0, short_tick=3600.0) as (a, b):
        hints = hints_of(a, monkeypatch)
        run_id = await begun(a, walk)
        decide = a.store.decide

        async def unavailable(*args: Any, **kwargs: Any) -> Any:
            nonlocal lost
            if away:
                raise StoreUnavailable("the store is away")
            decision = await decide(*args, **kwargs)
            if lost:
                lost -= 1
                raise StoreUnavailable("the answer is lost")
            return decision

        monkeypatch.setattr(a.store, "decide", unavailable)
        with pytest.raises(CancelNotDurable):
            await a.cancel(run_id, reason="enough")
        await hang(a)
        await adopted(b, run_id, b)
        away = False
        await wait_until(lambda: hints == [(b.worker.epoch, run_id)], description="its worker gets a hint")
        await assembly_of(b).watch.tick()
        assert await b.wait(run_id, timeout=10) is None
        receipt = await b.runs.receipt(run_id)
        assert (receipt.status, receipt.reason) == (RunStatus.interrupted, "enough")


async def test_run_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        run_id = await begun(a, walk)
        await hang(a)
        await adopted(b, run_id, b)
        walk.go_on.set()
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert await a.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert walk.log == [("a", 0), ("a", 1), ("b", 2), ("b", 3)]
        row = await row_of(b, run_id)
        assert (row.status, row.attempt, row.retries) == (RunStatus.success, 2, 0)
        assert walk.attempts == [1, 2]


async def test_run_without_retries_ends_with_its_worker(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, retries=0) as (a, b):
        run_id = await begun(a, walk)
        await hang(a)
        with pytest.raises(RunFailed):
            await b.wait(run_id, timeout=10)
        assert (await row_of(b, run_id)).cancel_cause == "orphaned"


async def test_rolling_restart_repeats_nothing(tmp_path: Path) -> None:
    """Of three workers, the one that executes the run leaves, twice."""
    walk = Walk(waits_at=1)
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(gateway(tmp_path, walk=walk.on(name))) for name in ("a", "b", "c")
        ]
        run_id = await begun(workers[0], walk)
        while len(workers) > 1:
            owner = (await row_of(workers[0], run_id)).owner_epoch
            [leaver] = [worker for worker in workers if worker.worker.epoch == owner]
            workers.remove(leaver)
            walk.waiting.clear()
            await leaver.shutdown(timeout=10)
            async with asyncio.timeout(10):
                await walk.waiting.wait()
        walk.go_on.set()
        assert await workers[0].wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert walk.steps == [0, 1, 2, 3]
        row = await row_of(workers[0], run_id)
        assert (row.attempt, row.retries, walk.attempts) == (3, 1, [1, 2, 3]), "it takes no retry"


async def test_drain_does_not_wait_for_what_it_handed_over(tmp_path: Path) -> None:
    """No peer knows the assistant: the next process continues the run."""
    walk = Walk(waits_at=2)
    async with gateway(tmp_path, walk=walk.on("a")) as a:
        run_id = await begun(a, walk)
        async with asyncio.timeout(5):
            await a.shutdown(timeout=60)
    walk.go_on.set()
    async with gateway(tmp_path, walk=walk.on("b")) as b:
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
    assert walk.log == [("a", 0), ("a", 1), ("b", 2), ("b", 3)]


async def test_runs_that_are_handed_over_together_share_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peers are read once for all runs that are handed over meanwhile."""
    walk = Walk(waits_at=1)
    async with gateway(tmp_path) as b:  # cannot continue them
        async with gateway(tmp_path, walk=walk.on("a")) as a:
            runs = [await a.create_or_reject(thread, "walk") for thread in ("t", "u", "v")]
            for run in runs:
                a.launch(run)
            await wait_until(lambda: len(walk.log) == len(runs), description="all have saved a step")
            await assembly_of(a).loops.stop()  # its sweeps read the peers as well
            hints, peers = hints_of(a, monkeypatch), hold_answers(a.store, "workers")
            draining = asyncio.create_task(a.shutdown(timeout=30))

            async def are_handed_over() -> bool:
                return all([(await row_of(b, run.run_id)).between_attempts for run in runs])

            await wait_until(are_handed_over, description="all are handed over")
            peers.go_on.set()
            await draining
        assert ([epoch for epoch, _ in hints], peers.calls) == ([b.worker.epoch], 1)


async def test_run_that_does_not_stop_within_the_grace_is_cancelled_and_continued(tmp_path: Path) -> None:
    walk = Walk(waits_at=2, heeds_drain=False)
    async with pair(tmp_path, walk, lease_ttl=30.0) as (a, b):
        run_id = await begun(a, walk)
        await a.shutdown(timeout=0.1)
        walk.go_on.set()
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert walk.log == [("a", 0), ("a", 1), ("b", 2), ("b", 3)]
        row = await row_of(b, run_id)
        assert (row.attempt, row.retries) == (2, 1)


async def test_cancel_between_two_attempts_is_settled_by_the_draining_worker(tmp_path: Path) -> None:
    """No other worker can continue the run, so the one that drains stays its owner."""
    walk, other = Walk(waits_at=2), Walk(waits_at=0, heeds_drain=False)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(gateway(tmp_path, walk=walk.on("a")))
        b = await stack.enter_async_context(gateway(tmp_path))
        await a.threads.replace_values("t", {"before": 1})
        run_id = await begun(a, walk)
        keeps_draining = await a.create_or_reject("u", "other")
        a.launch(keeps_draining, other.on("a"))
        await other.waiting.wait()
        draining = asyncio.create_task(a.shutdown(timeout=30))

        async def is_handed_over() -> bool:
            return (await row_of(b, run_id)).between_attempts

        await wait_until(is_handed_over, description="the run is handed over")
        assert await b.cancel(run_id, action="rollback", wait=10)
        thread = await b.store.thread("t")
        assert thread is not None
        assert thread.values == {"before": 1}
        assert not await b.has_inflight("t")
        other.go_on.set()
        await draining


async def test_cancelled_attempt_rolls_back_all_attempts(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        await a.threads.replace_values("t", {"before": 1})
        run_id = await begun(a, walk)
        await hang(a)
        walk.waits_at, walk.waiting = 3, asyncio.Event()
        async with asyncio.timeout(10):
            await walk.waiting.wait()
        assert walk.log[-1] == ("b", 2)
        assert await b.cancel(run_id, action="rollback", wait=10)
        thread = await b.store.thread("t")
        assert thread is not None
        assert thread.values == {"before": 1}


@pytest.mark.parametrize("where", ["on the draining worker", "on another worker"])
async def test_followers_of_a_run_that_is_handed_over_miss_and_repeat_nothing(
    tmp_path: Path, where: str
) -> None:
    """Also if the last steps take less time than one poll of the event log."""
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, lease_ttl=30.0, event_log="store") as (a, b):
        run_id = await begun(a, walk)
        follows = a if where == "on the draining worker" else b
        async with follows.follow(run_id, modes=("custom",)) as follower:
            await a.worker.drain(grace=10)
            walk.go_on.set()
            async with asyncio.timeout(15):
                items: list[Any] = [item async for item in follower]
        assert [item.data for item in items if isinstance(item, Event)] == [0, 1, 2, 3]
        assert not [item for item in items if isinstance(item, Gap)]
        assert isinstance(items[-1], End)
        assert (items[-1].status, items[-1].complete) == (RunStatus.success, True)
        ids = [item.id for item in items if isinstance(item, Event)]
        assert ids == sorted(set(ids))


async def test_follower_that_begins_on_the_new_owner_gets_the_events_of_every_attempt(tmp_path: Path) -> None:
    """Also after an event of the first attempt. The new owner has those of its own attempt in memory."""
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, lease_ttl=30.0, event_log="store") as (a, b):
        run_id = await begun(a, walk)
        await a.shutdown(timeout=10)
        walk.go_on.set()
        await b.wait(run_id, timeout=10)
        items = await _all(b.follow(run_id, modes=("custom",)))
        assert [item.data for item in items[:-1]] == [0, 1, 2, 3]
        assert items[-1].complete
        assert await _all(b.follow(run_id, modes=("custom",), after=str(items[0].id))) == items[1:]


async def test_log_of_a_run_is_complete_before_the_run_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a store that has the newer fence refuses the rest of the log, or followers read the log before the
    rest arrives: a gap although nothing is missing."""
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, lease_ttl=30.0, event_log="store") as (a, b):
        store: Any = a.store
        append, hand_over = store.append_events, store.hand_over
        called, answers, written = asyncio.Event(), asyncio.Event(), list[bool]()

        async def slow(*args: Any, **more: Any) -> Any:
            called.set()
            await answers.wait()
            return await append(*args, **more)

        async def noted(own: Ownership) -> Any:
            written.append(answers.is_set())
            return await hand_over(own)

        run_id = await begun(a, walk)
        monkeypatch.setattr(store, "append_events", slow)
        monkeypatch.setattr(store, "hand_over", noted)
        async with a.follow(run_id, modes=("custom",)) as one, a.follow(run_id, modes=("custom",)) as two:
            streams = [asyncio.create_task(_all(follower)) for follower in (one, two)]
            draining = asyncio.create_task(a.worker.drain(grace=10))
            async with asyncio.timeout(15):
                await called.wait()
                await asyncio.sleep(0.04)
                answers.set()
                await draining
                walk.go_on.set()
                both = await asyncio.gather(*streams)
        assert written[0], "handed over before the log was complete"
        for items in both:
            assert [item.data for item in items if isinstance(item, Event)] == [0, 1, 2, 3]
            assert not [item for item in items if isinstance(item, Gap)]
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}


async def test_drain_waits_until_a_hand_over_is_written(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk, lease_ttl=30.0) as (a, b):
        run_id = await begun(a, walk)
        held = hold_calls(a.store, "hand_over")
        draining = asyncio.create_task(a.worker.drain(grace=10))
        async with asyncio.timeout(20):
            await held.reached.wait()
            done, _ = await asyncio.wait((draining,), timeout=0.5)
            assert not done
            held.go_on.set()
            await draining
        walk.go_on.set()
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}


async def _all(follower: Any) -> list[Any]:
    return [item async for item in follower]


async def test_follower_on_a_drained_worker_gets_events_while_another_one_continues(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    @assistant(name="walk", retries=1)
    async def walk(ctx: RunContext) -> Outcome | None:
        await ctx.emit("custom", ctx.attempt)
        if ctx.attempt == 1:
            await ctx.drain_event.wait()
            return Outcome(drained=True)
        await go_on.wait()
        return None

    lease: Any = {**SHORT, "lease_ttl": 30.0, "event_log": "store"}
    async with gateway(tmp_path, lease=lease, walk=walk) as a, gateway(tmp_path, lease=lease, walk=walk):
        run = await a.create_or_reject("t", "walk")
        a.launch(run)
        async with asyncio.timeout(20), a.follow(run.run_id, modes=("custom",)) as follower:
            first: Any = await anext(follower)
            await a.worker.drain(grace=10)
            second: Any = await anext(follower)
            assert (first.data, second.data) == (1, 2)
            go_on.set()
            assert isinstance(await anext(follower), End)


async def test_adoption_whose_answer_was_lost_is_continued_by_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        run_id = await begun(a, walk)
        sweep, lost = b.store.sweep, list[Any]()

        async def answer_lost(**arguments: Any) -> Any:
            orphans = await sweep(**arguments)
            if any(orphan.attempt for orphan in orphans) and not lost:
                lost.extend(orphans)
                raise StoreUnavailable("the answer is lost")
            return orphans

        monkeypatch.setattr(b.store, "sweep", answer_lost)
        await hang(a)
        await adopted(b, run_id, b)
        walk.go_on.set()
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert lost
        assert walk.steps == [0, 1, 2, 3]


async def test_repeated_adoption_is_executed_once(tmp_path: Path) -> None:
    walk = Walk(waits_at=2)
    async with pair(tmp_path, walk) as (a, b):
        run_id = await begun(a, walk)
        await hang(a)
        await adopted(b, run_id, b)
        row = await row_of(b, run_id)
        own = Ownership(run_id, "t", b.worker.epoch, row.fence)
        assert all(await asyncio.gather(*(assembly_of(b).reaper.continue_run(own) for _ in range(3))))
        walk.go_on.set()
        assert await b.wait(run_id, timeout=10) == {"steps": [0, 1, 2, 3]}
        assert walk.attempts == [1, 2]
