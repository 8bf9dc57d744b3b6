"""save, restore, settle after a rollback, adoption; delete of a thread."""

from __future__ import annotations

from coordinator.testing.conformance.stores.rollbacks import rolling_back
from stores.base import CoordinationStore
from stores.rows import Orphan, ThreadRow
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_worker,
    row_of,
    running,
    sql_of,
)


class Rollbacks(StoreCase):
    async def test_the_open_questions_of_the_thread_come_back_too(
        self, store: CoordinationStore, me: int
    ) -> None:
        paused = SUCCESS._replace(values={"n": 0}, paused=True, interrupts=["question"])
        await store.finish(await running(store, me), paused)
        own = await running(store, me)
        await store.save(own, {"n": 1})
        assert (await the_thread(store)).interrupts is None
        await cancel(store, own.run_id, CancelAction.rollback)
        values = await store.restore(own)
        await store.settle(own, ENDED._replace(values=values), "done")
        thread = await the_thread(store)
        assert (thread.values, thread.interrupts, thread.status) == ({"n": 0}, ["question"], "interrupted")

    async def test_a_run_that_saved_nothing_is_restored_to_what_is_there(
        self, store: CoordinationStore, me: int
    ) -> None:
        await store.finish(await running(store, me), SUCCESS._replace(values={"n": 0}))
        own = await running(store, me)
        await cancel(store, own.run_id, CancelAction.rollback)
        assert await store.restore(own) == {"n": 0}

    async def test_a_run_that_never_started_has_nothing_to_undo(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await holding(store, me)
        await cancel(store, own.run_id, CancelAction.rollback)
        finish = await store.finish(own, SUCCESS)
        assert (finish.undo, finish.status) == (False, RunStatus.interrupted)
        assert await store.holder("t") is None

    async def test_settle_stores_values_that_were_restored_elsewhere(
        self, store: CoordinationStore, me: int
    ) -> None:
        """A graph keeps its state in its own store. The thread's row shows the answer of `restore`."""
        own = await running(store, me)
        await cancel(store, own.run_id, CancelAction.rollback)
        await store.settle(own, ENDED._replace(values={"from": "checkpointer"}), "done")
        assert (await the_thread(store)).values == {"from": "checkpointer"}

    async def test_the_next_run_waits_until_the_rollback_is_settled(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        admission = await admitted(store, peer, multitask_strategy="rollback")
        assert await store.claim("t", epoch=peer) is None
        assert (await store.finish(own, SUCCESS)).undo
        assert await store.claim("t", epoch=peer) is None
        assert (await store.settle(own, ENDED, "done")).next_home == peer
        claimed = await store.claim("t", epoch=peer)
        assert claimed is not None
        assert claimed.run_id == admission.run_id

    async def test_what_a_sweep_adopted_is_answered_until_it_is_settled(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """The first answer may be lost, and no other worker would finish the rollback."""
        await rolling_back(store, peer)
        await fence_epoch(store, peer, by=me)
        [first] = await store.sweep(by=me, error="gone")
        [again] = await store.sweep(by=me, error="gone")
        assert first.adopted is not None
        assert (again.run_id, again.adopted, again.decided) == (first.run_id, first.adopted, True)
        assert await store.restore(first.adopted) == {"n": 0}
        await store.settle(first.adopted, ENDED, "done")
        assert await store.sweep(by=me, error="gone") == []

    async def test_restore_returns_the_values_with_which_the_run_was_started(
        self, store: CoordinationStore, me: int
    ) -> None:
        """A further attempt is started with the values from before the first one."""
        await store.finish(await running(store, me), SUCCESS._replace(values={"n": 1}))
        own = await holding(store, me)
        await store.start(own, {"kind": "values", "values": {"n": 0}, "interrupts": None})
        await store.save(own, {"n": 2})
        await cancel(store, own.run_id, CancelAction.rollback)
        assert await store.restore(own) == {"n": 0}

    async def test_a_record_put_back_on_a_deleted_thread_does_not_reset_its_fence(
        self, store: CoordinationStore, me: int
    ) -> None:
        operation = await running(store, me, kind="op")
        await store.delete_thread(operation)
        await store.put("imported", thread_id="t", status="error")
        assert (await holding(store, me)).fence > operation.fence

    async def test_the_fourth_crash_in_a_rollback_frees_the_thread_with_an_error_to_see(
        self, store: CoordinationStore, me: int
    ) -> None:
        owner = await store.register(new_worker())
        own = await rolling_back(store, owner)
        for _ in range(3):
            await fence_epoch(store, owner, by=me)
            owner = await store.register(new_worker())
            [orphan] = await store.sweep(by=owner, error="gone")
            assert orphan.adopted is not None
        await fence_epoch(store, owner, by=me)
        [orphan] = await store.sweep(by=me, error="gone")
        assert orphan.adopted is None
        row = await row_of(store, own.run_id)
        assert (row.status, row.rollback_state, row.settled) == (RunStatus.interrupted, "failed", True)
        assert "Rollback failed" in (row.error or "")
        assert (await the_thread(store)).status == "error"

    async def test_a_zombie_adopts_nothing(self, store: CoordinationStore, me: int, peer: int) -> None:
        own = await rolling_back(store, peer)
        zombie = await store.register(new_worker())
        await fence_epoch(store, peer, by=me)
        await fence_epoch(store, zombie, by=me)
        assert await store.sweep(by=zombie, error="gone") == []
        assert (await row_of(store, own.run_id)).owner_epoch == peer

    async def test_a_damaged_reference_does_not_stop_the_recovery_of_others(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await rolling_back(store, peer)
        other = await running(store, peer, "other")
        sql_of(store)("UPDATE runs SET rollback_ref = '{' WHERE run_id = ?", own.run_id)
        await fence_epoch(store, peer, by=me)
        ended: list[Orphan] = await store.sweep(by=me, error="gone")
        assert {orphan.run_id for orphan in ended} == {own.run_id, other.run_id}


async def the_thread(store: CoordinationStore) -> ThreadRow:
    thread = await store.thread("t")
    assert thread is not None
    return thread
