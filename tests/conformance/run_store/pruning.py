"""prune: old rows are deleted, except rows that others still depend on."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.pruning import PruneCursor, Pruned, PruningStore, Retention
from stores.rows import Limits, Outcome, Ownership
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    running,
    waiting,
)

DAY = 86_400.0
LATER = 10 * DAY
"""Late enough that rows which tests create in the future of the store's clock are old as well."""
RUNS = Retention(runs=DAY)


async def pruned(
    store: CoordinationStore, keep: Retention = RUNS, *, limit: int = 3, dry: bool = False
) -> Pruned:
    """One pass."""
    assert isinstance(store, PruningStore)
    removed, cursor = Pruned(), PruneCursor("runs")
    while True:
        step = await store.prune(keep, cursor=cursor, limit=limit, dry_run=dry)
        removed = removed.plus(step.pruned)
        if step.cursor is None:
            return removed
        cursor = step.cursor


async def finished(store: CoordinationStore, me: int, thread: str = "t", **fields: Any) -> Ownership:
    own = await running(store, me, thread, **fields)
    await store.finish(own, SUCCESS)
    return own


class Pruning(StoreCase):
    async def test_old_runs_go_with_their_audit_and_the_last_of_each_thread_stays(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        runs = [await finished(store, me, thread) for thread in ("a", "b") for _ in range(5)]
        clock.advance(LATER)
        young = await finished(store, me, "c")
        assert await pruned(store, dry=True) == Pruned(runs=8, transitions=24)
        assert await pruned(store) == Pruned(runs=8, transitions=24)
        assert await pruned(store) == Pruned()
        left = {run.run_id for run in await store.runs()}
        assert left == {runs[4].run_id, runs[9].run_id, young.run_id}
        assert await store.transitions(runs[0].run_id) == []
        assert len(await store.transitions(runs[4].run_id)) == 3

    async def test_what_is_in_flight_stays_however_old(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        await running(store, me, "running")
        await waiting(store, me, "running")
        await holding(store, me, "pending")
        unwinding = await running(store, me, "unwinding")
        await cancel(store, unwinding.run_id, CancelAction.rollback)
        await store.insert(new_run("running"), epoch=me)
        clock.advance(100 * DAY)
        assert await pruned(store, Retention(runs=0, transitions=0, workers=0, keys=0)) == Pruned()
        assert await pruned(store, dry=True) == Pruned()

    @pytest.mark.parametrize(
        "last", ["error", "paused", "updated", "interrupted", "rolled back", "withdrawn"]
    )
    async def test_no_thread_changes_its_status(
        self, store: CoordinationStore, me: int, clock: StoreClock, last: str
    ) -> None:
        await store.finish(await running(store, me), Outcome(RunStatus.error, "first"))
        await finished(store, me)
        own = await running(store, me)
        if last == "error":
            await store.finish(own, Outcome(RunStatus.error, "why"))
        elif last == "paused":
            await store.finish(own, Outcome(RunStatus.success, paused=True, interrupts=[{"value": 1}]))
        elif last == "updated":
            await store.finish(own, Outcome(RunStatus.error, "why"))
            update = await running(store, me, kind="op")
            await store.finish(update, Outcome(RunStatus.success, values={"a": 1}, paused=True))
        elif last == "rolled back":
            await cancel(store, own.run_id, CancelAction.rollback)
            await store.settle(own, SUCCESS, "done")
        else:
            await store.finish(own, Outcome(RunStatus.interrupted))
        if last == "withdrawn":
            run = await admitted(store, me)
            await store.withdraw(run.run_id, epoch=me)
        before = await store.thread("t")
        clock.advance(LATER)
        assert (await pruned(store)).runs >= 1
        assert await store.thread("t") == before

    async def test_fences_survive(self, store: CoordinationStore, me: int, clock: StoreClock) -> None:
        for _ in range(3):
            await finished(store, me)
        clock.advance(LATER)
        await pruned(store)
        assert (await admitted(store, me)).fence == 4

    async def test_idempotency_keys_are_remembered_for_a_day_at_least(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        request = new_run("t", idempotency_key="k", request_hash="h")
        first = await store.admit(request, epoch=me, limits=Limits())
        await store.finish(Ownership(first.run_id, "t", me, first.fence), SUCCESS)
        await finished(store, me)
        clock.advance(DAY - 1)
        assert (await pruned(store, Retention(runs=1))).runs == 0
        again = new_run("t", idempotency_key="k", request_hash="h")
        assert (await store.admit(again, epoch=me, limits=Limits())).run_id == first.run_id
        clock.advance(2)
        assert (await pruned(store, Retention(runs=1))).runs == 1

    async def test_the_audit_may_go_before_its_run(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        old = await finished(store, me)
        flying = await running(store, me, "flying")
        clock.advance(LATER)
        young = await finished(store, me)
        assert await pruned(store, Retention(transitions=DAY)) == Pruned(transitions=3)
        assert await store.transitions(old.run_id) == []
        assert len(await store.transitions(young.run_id)) == 3
        assert len(await store.transitions(flying.run_id)) == 2
        assert await store.row(old.run_id) is not None

    async def test_dead_workers_go_when_nothing_of_theirs_is_left(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        idle, busy = await store.register(new_worker()), await store.register(new_worker())
        await running(store, busy)
        for peer in (idle, busy):
            await fence_epoch(store, peer, by=me)
        clock.advance(LATER)
        keep = Retention(workers=DAY)
        assert await pruned(store, keep) == Pruned(workers=1)
        assert [row.epoch for row in await store.workers(alive_only=False)] == [me, busy]
        await store.sweep(by=me, error="gone")
        assert await pruned(store, keep) == Pruned(workers=1)
        assert await store.register(new_worker()) > busy

    async def test_imported_rows_without_a_readable_time_go_too(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        for at in range(7):
            await store.put(f"r{at}", thread_id="t", status="success", created_at="nonsense")
        await finished(store, me)
        clock.advance(LATER)
        assert (await pruned(store)).runs == 7
