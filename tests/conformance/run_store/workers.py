"""register, beat, fence_worker, sweep, retire, tick: live workers, and the runs of dead ones."""

from __future__ import annotations

import pytest

from stores.base import CoordinationStore
from stores.errors import StoreRefused
from stores.states import CancelAction, Cause, RunStatus, WorkerState
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    cancel,
    created,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    sql_of,
    waiting,
    worker_row,
)


class Workers(StoreCase):
    async def test_registration_with_the_epoch_of_another_worker_is_fenced_and_retires_no_worker(
        self, store: CoordinationStore, peer: int
    ) -> None:
        """As after a failover that lost the last commits, or after a restore of a backup."""
        own = await running(store, peer)
        sql_of(store)("UPDATE workers SET worker_id = 'another' WHERE epoch = ?", peer)
        assert not await store.beat(peer)
        assert await store.retire(peer) == []
        assert (await worker_row(store, peer)).state is WorkerState.live
        assert (await worker_row(store, peer)).hb_seq == 0
        assert (await row_of(store, own.run_id)).status is RunStatus.running

    async def test_a_tick_answers_which_of_the_runs_do_not_hold_a_thread(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        pending, own = await holding(store, me, "a"), await running(store, me, "b")
        theirs, waits = (await running(store, peer, "c")).run_id, await waiting(store, me, "b")
        runs = [pending.run_id, own.run_id, theirs, waits, "unknown"]
        assert (await store.tick(me)).not_held == frozenset()
        assert (await store.tick(me, runs)).not_held == {theirs, waits, "unknown"}
        await cancel(store, own.run_id)
        assert own.run_id not in (await store.tick(me, runs)).not_held, "its task has not stopped"
        await store.settle(own, ENDED)
        assert own.run_id in (await store.tick(me, runs)).not_held

    async def test_sweep_ends_runs_without_an_existing_owner(self, store: CoordinationStore, me: int) -> None:
        """A run with a NULL owner, or with one that never existed, is an orphan."""
        await store.put("unowned", thread_id="a", status="running")
        ghost = await running(store, me, "b")
        sql_of(store)("UPDATE runs SET owner_epoch = 999 WHERE run_id = ?", ghost.run_id)
        ended = await store.sweep(by=me, error="gone")
        assert {orphan.run_id for orphan in ended} == {"unowned", ghost.run_id}

    async def test_before_limits_by_creation_and_skips_what_cannot_be_read(
        self, store: CoordinationStore, me: int
    ) -> None:
        for run_id, stamp in {"old": created(-100), "new": created(100), "odd": "yesterday"}.items():
            await store.put(run_id, thread_id=run_id, status="running", created_at=stamp)
        assert [o.run_id for o in await store.sweep(by=me, error="x", before=created(0))] == ["old"]
        with pytest.raises(ValueError, match="ISO 8601"):
            await store.sweep(by=me, error="x", before="last week")
        assert {o.run_id for o in await store.sweep(by=me, error="x")} == {"new", "odd"}

    async def test_retire_ends_its_own_runs_only(self, store: CoordinationStore, me: int, peer: int) -> None:
        mine, theirs = await running(store, peer, "a"), await running(store, me, "b")
        await store.put("imported", thread_id="c", status="pending")
        decided = await running(store, peer, "d")
        await cancel(store, decided.run_id)
        undone = await running(store, peer, "e")
        await cancel(store, undone.run_id, CancelAction.rollback)
        ended = await store.retire(peer)
        assert {orphan.run_id for orphan in ended} == {mine.run_id, decided.run_id}
        assert await store.retire(peer) == []
        assert (await row_of(store, theirs.run_id)).status is RunStatus.running
        assert (await row_of(store, "imported")).open
        [adopted] = [o for o in await store.sweep(by=me, error="gone") if o.adopted]
        assert adopted.run_id == undone.run_id, "a rollback is left to a reaper"

    async def test_a_run_beside_the_slot_ends_with_its_worker(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        await holding(store, me)
        first, second = [(await store.insert(new_run(), epoch=peer)).run_id for _ in range(2)]
        await cancel(store, first)
        await fence_epoch(store, peer, by=me)
        assert [orphan.run_id for orphan in await store.sweep(by=me, error="gone")] == [second]
        assert (await row_of(store, first)).settled

    @pytest.mark.parametrize("retires", [True, False])
    async def test_a_child_beside_the_slot_is_reported_with_its_parent_when_their_worker_ends(
        self, *, store: CoordinationStore, me: int, peer: int, retires: bool
    ) -> None:
        await holding(store, me, "busy")
        parent = await running(store, peer)
        child = await store.insert(new_run("busy", parent_run_id=parent.run_id), epoch=peer)
        if retires:
            orphans = await store.retire(peer)
        else:
            await fence_epoch(store, peer, by=me)
            orphans = await store.sweep(by=me, error="gone")
        assert [(orphan.run_id, orphan.status, orphan.decided) for orphan in orphans] == [
            (parent.run_id, RunStatus.error, False),
            (child.run_id, RunStatus.interrupted, False),
        ]
        row = await row_of(store, child.run_id)
        assert (row.cancel_cause, row.settled) == (Cause.parent, True)

    async def test_a_tick_reads_what_was_decided_what_waits_and_what_is_free(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        decided, quiet = await running(store, me, "a"), await running(store, me, "b")
        theirs = await running(store, peer, "c")
        for own in (decided, theirs):
            await cancel(store, own.run_id)
        waits, free = await waiting(store, me, "b"), await waiting(store, me, "c")
        await waiting(store, peer, "b")
        await store.finish(theirs, SUCCESS)
        tick = await store.tick(me)
        assert tick.cancelled == (decided.run_id,)
        assert set(tick.waiting) == {waits, free}
        assert tick.free_threads == ("c",)
        await store.finish(decided, SUCCESS)
        await store.finish(quiet, SUCCESS)
        tick = await store.tick(me)
        assert (tick.cancelled, set(tick.free_threads)) == ((), {"b", "c"})

    async def test_workers_are_counted_with_what_they_hold(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        await running(store, me, "a")
        await holding(store, me, "b")
        await waiting(store, me, "b")
        assert [(row.epoch, row.holding) for row in await store.workers()] == [(me, 2), (peer, 0)]

    async def test_workers_are_counted_with_their_cancelled_runs_that_have_not_stopped(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me, "a")
        await running(store, me, "b")
        await cancel(store, own.run_id)
        await cancel(store, await waiting(store, me, "b"))
        assert [(row.epoch, row.stopping) for row in await store.workers()] == [(me, 1), (peer, 0)]
        assert [row.stopping for row in await store.workers(counted=False)] == [0, 0]
        await store.finish(own, SUCCESS)
        assert [row.stopping for row in await store.workers()] == [0, 0]

    async def test_a_second_host_is_refused_while_the_first_is_alive(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        if store.url.startswith("postgresql"):
            return  # any number of hosts
        other = new_worker(host="there", boot_id="boot-2")
        with pytest.raises(StoreRefused, match="'here'"):
            await store.register(other)
        await store.register(new_worker(host="container", boot_id="boot-1"))
        clock.advance(16)
        assert await store.register(other) > me
