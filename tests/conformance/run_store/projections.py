"""Projections: every change of a run is queued in its own transaction, and delivered by one worker at a
time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import ThreadPatch
from stores.errors import ConflictError, EpochDead
from stores.projections import FailedChange, ProjectionStore, RunChange
from stores.sql.projections import PAGE
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    new_worker,
    row_of,
    running,
    sql_of,
    waiting,
)

LEASE = 30.0
Changes = list[RunChange]


def listed(changes: Changes | None) -> list[tuple[str, str]]:
    assert changes is not None
    return [(change.run_id, change.what) for change in changes if change.visible]


class Projections(StoreCase):
    @pytest.fixture
    async def table(self, store: CoordinationStore) -> ProjectionStore:
        """With one projection, `copy`."""
        assert isinstance(store, ProjectionStore)
        await store.add_projection("copy")
        return store

    @pytest.fixture
    def claimed(self, table: ProjectionStore, me: int) -> Callable[..., Awaitable[Changes | None]]:
        async def claimed(epoch: int = me, limit: int = 100, name: str = "copy") -> Changes | None:
            return await table.claim_changes(name, epoch=epoch, lease=LEASE, limit=limit)

        return claimed

    @pytest.fixture
    def delivered(self, table: ProjectionStore, claimed: Any, me: int) -> Callable[..., Awaitable[Changes]]:
        """Claims all, and reports them as delivered."""

        async def delivered() -> Changes:
            changes: Changes = await claimed()
            await table.report_changes("copy", epoch=me, delivered=[change.seq for change in changes])
            return changes

        return delivered

    async def test_without_a_projection_no_change_is_queued(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS)
        assert isinstance(store, ProjectionStore)
        assert await store.pending_changes(own.run_id) == []
        assert await store.next_change("copy") is None
        assert await store.claim_changes("copy", epoch=me, lease=LEASE, limit=1) is None
        assert await store.projections() == []

    async def test_changes_of_a_run_are_queued_in_order(
        self, store: CoordinationStore, table: ProjectionStore, me: int, delivered: Any
    ) -> None:
        assert await delivered() == []
        assert await table.next_change("copy") is None
        own = await running(store, me, "t")
        assert await table.next_change("copy") == 0
        changes = await delivered()
        assert listed(changes) == [(own.run_id, "admitted"), (own.run_id, "started")]
        assert [change.run for change in changes] == [await row_of(store, own.run_id)] * 2
        await store.finish(own, SUCCESS)
        (change,) = await delivered()
        assert (change.what, change.thread_id, change.attempt) == ("finished", "t", 1)
        assert change.run is not None
        assert change.run.status is RunStatus.success
        assert change.seq > changes[-1].seq > changes[0].seq
        assert await delivered() == []

    async def test_replaced_run_comes_before_the_run_that_replaces_it(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        own = await running(store, me, "t")
        await delivered()
        new = await admitted(store, me, "t", multitask_strategy="rollback")
        changes = await delivered()
        assert listed(changes) == [(own.run_id, "decided"), (new.run_id, "queued")]
        assert changes[0].run.cancel_action is CancelAction.rollback
        await store.finish(own, SUCCESS)
        await store.settle(own, SUCCESS, "done")
        assert listed(await delivered()) == [(own.run_id, "settled")]

    async def test_cancelled_recovered_and_deleted_runs_are_changes(
        self, store: CoordinationStore, me: int, peer: int, delivered: Any
    ) -> None:
        theirs, mine = await running(store, peer, "t"), await running(store, me, "u")
        queued = await waiting(store, me, "u")
        await delivered()
        await cancel(store, queued)
        await fence_epoch(store, peer, by=me)
        await store.sweep(by=me, error="dead")
        assert listed(await delivered()) == [(queued, "finished"), (theirs.run_id, "finished")]
        await store.delete_run(theirs.run_id, thread_id=None, user_id=None)
        (change,) = await delivered()
        assert (change.run_id, change.what, change.run) == (theirs.run_id, "deleted", None)
        await store.finish(mine, SUCCESS)
        assert listed(await delivered()) == [(mine.run_id, "finished")]

    async def test_change_of_a_run_that_is_deleted_meanwhile_is_its_deletion(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS)
        await store.delete_run(own.run_id, thread_id=None, user_id=None)
        assert listed(await delivered()) == [(own.run_id, "deleted")]

    async def test_operation_is_no_run(self, store: CoordinationStore, me: int, delivered: Any) -> None:
        own = await running(store, me, kind="op")
        await store.finish(own, SUCCESS)
        await store.delete(own.run_id)
        assert listed(await delivered()) == []

    async def test_counters_of_a_settled_run_are_a_change(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS)
        await delivered()
        await store.update_run_completion(own.run_id, status="success", total_tokens=7)
        changes = await delivered()
        assert set(listed(changes)) == {(own.run_id, "amended")}
        assert changes[0].run.counters["total_tokens"] == 7
        await store.patch_thread(own.thread_id, ThreadPatch({"a": 1}), user_id=None)
        assert await delivered() == []

    async def test_one_worker_delivers_changes_until_its_report_or_death(
        self,
        store: CoordinationStore,
        table: ProjectionStore,
        peer: int,
        claimed: Any,
        clock: StoreClock,
    ) -> None:
        me = await store.register(new_worker())
        await admitted(store, me)
        (change,) = await claimed(me)
        assert await claimed(peer) is None
        assert await claimed(me) == [change]  # the first answer may be lost
        clock.advance(LEASE)
        assert await claimed(peer) == [change]
        await table.report_changes("copy", epoch=me, delivered=[change.seq])
        assert await claimed(me) is None
        await fence_epoch(store, peer, by=me)
        assert await claimed(me) == [change]
        await table.report_changes("copy", epoch=me, delivered=[change.seq])
        assert await claimed(me) == []
        with pytest.raises(EpochDead):
            await claimed(peer)

    async def test_failed_change_delays_its_thread_alone(
        self,
        store: CoordinationStore,
        table: ProjectionStore,
        me: int,
        claimed: Any,
        clock: StoreClock,
    ) -> None:
        first, second = await admitted(store, me, "t"), await admitted(store, me, "u")
        change, other = await claimed()
        failed = FailedChange(change.seq, "ü", 2_000_000)
        await table.report_changes("copy", epoch=me, delivered=[other.seq], failed=[failed])
        await cancel(store, first.run_id)
        await cancel(store, second.run_id)
        assert listed(await claimed()) == [(second.run_id, "decided")]
        await table.report_changes("copy", epoch=me, delivered=[])
        (row,) = await table.projections()
        assert (row.pending, row.failing, row.error) == (3, 1, "ü")
        assert row.oldest_at == clock.micros
        pending = await table.pending_changes(first.run_id)
        assert [(one.what, one.attempts, one.error) for one in pending] == [
            ("admitted", 1, "ü"),
            ("decided", 0, None),
        ]
        clock.advance(2)
        again = await claimed()
        assert listed(again) == [
            (first.run_id, "admitted"),
            (first.run_id, "decided"),
            (second.run_id, "decided"),
        ]
        assert [one.attempt for one in again] == [2, 1, 1]

    async def test_next_change_waits_for_a_failed_one(
        self, store: CoordinationStore, table: ProjectionStore, me: int, claimed: Any
    ) -> None:
        await admitted(store, me)
        (change,) = await claimed()
        failed = [FailedChange(change.seq, "refused", 1_500_000)]
        await table.report_changes("copy", epoch=me, delivered=[], failed=failed)
        assert await table.next_change("copy") == 1.5
        assert await claimed() == []

    async def test_new_projection_gets_every_run_that_exists(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        assert isinstance(store, ProjectionStore)
        runs = {(await admitted(store, me, f"t{number}")).run_id for number in range(3)}
        await running(store, me, "op", kind="op")
        await store.add_projection("late")
        await store.add_projection("late")
        assert await store.next_change("late") == 0
        assert [(row.name, row.filling) for row in await store.projections()] == [("late", True)]
        changes = await store.claim_changes("late", epoch=me, lease=LEASE, limit=PAGE)
        assert changes is not None
        assert {change.run_id for change in changes if change.visible} == runs
        assert {change.what for change in changes} == {"existing"}
        assert [row.filling for row in await store.projections()] == [False]

    async def test_each_projection_has_a_queue_of_its_own(
        self, store: CoordinationStore, table: ProjectionStore, me: int, claimed: Any, delivered: Any
    ) -> None:
        await table.add_projection("other")
        run = await admitted(store, me)
        await delivered()
        others = listed(await claimed(name="other"))
        assert others == [(run.run_id, "admitted")]
        assert await table.remove_projection("other")
        assert not await table.remove_projection("other")
        assert await claimed(name="other") is None
        assert await table.pending_changes(run.run_id) == []
        assert [row.name for row in await table.projections()] == ["copy"]

    async def test_numbers_of_a_restored_store_exceed_those_before(
        self, store: CoordinationStore, table: ProjectionStore, me: int, clock: StoreClock, delivered: Any
    ) -> None:
        await admitted(store, me)
        (before,) = await delivered()
        clock.advance(60)
        await table.add_projection("copy")  # as every start does
        await admitted(store, me, "u")
        (after,) = await delivered()
        assert after.seq > clock.micros > before.seq

    async def test_damaged_row_does_not_stop_the_others(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        damaged, run = await admitted(store, me, "t"), await admitted(store, me, "u")
        sql_of(store)("UPDATE runs SET metadata = '{' WHERE run_id = ?", damaged.run_id)
        assert listed(await delivered()) == [(run.run_id, "admitted")]

    async def test_deleted_thread_deletes_its_runs(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        own = await running(store, me, "t")
        await store.finish(own, SUCCESS)
        await delivered()
        operation = await running(store, me, "t", kind="op")
        await store.delete_thread(operation)
        assert (own.run_id, "deleted") in listed(await delivered())

    async def test_row_is_never_older_than_its_change(
        self, store: CoordinationStore, me: int, claimed: Any
    ) -> None:
        own = await running(store, me)
        (admission, start) = await claimed()
        assert admission.run == start.run
        assert admission.run.status is RunStatus.running
        assert (await row_of(store, own.run_id)) == admission.run

    async def test_refused_admission_is_no_change(
        self, store: CoordinationStore, me: int, delivered: Any
    ) -> None:
        await running(store, me, "t")
        await delivered()
        with pytest.raises(ConflictError):
            await admitted(store, me, "t")
        assert await delivered() == []
