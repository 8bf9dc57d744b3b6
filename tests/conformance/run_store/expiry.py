"""Threads that are kept for a while only: temporary ones, and those with a time to live."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import NewThread, ThreadPatch
from stores.errors import ThreadNotFound
from stores.rows import Limits, Outcome, Ownership
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    cancel,
    fence_epoch,
    holding,
    new_run,
    running,
    sql_of,
    waiting,
)

KEEP = 5_000  # ms


async def passing(store: CoordinationStore, me: int, thread_id: str = "t", **fields: Any) -> Ownership:
    """A running run on a temporary thread that its admission has created."""
    return await running(store, me, thread_id, temporary_ms=KEEP, **fields)


async def expired(store: CoordinationStore, limit: int = 100) -> list[str]:
    """Returns the ids of the threads that one sweep removes."""
    foreseen = await store.has_expired_threads()
    removed = await store.expire_threads(limit=limit)
    assert foreseen or not removed
    return [thread.thread_id for thread in removed]


class Expiry(StoreCase):
    @pytest.mark.parametrize("created", ["by the admission", "before"])
    async def test_never_while_a_run_is_in_flight(
        self, store: CoordinationStore, me: int, clock: StoreClock, created: str
    ) -> None:
        if created == "before":
            await store.create_thread(NewThread("t", ttl_ms=KEEP, temporary=True))
            own = await running(store, me)
        else:
            own = await passing(store, me)
        queued = await waiting(store, me)
        clock.advance(3600)
        assert await expired(store) == []
        await cancel(store, own.run_id, CancelAction.rollback)
        await cancel(store, queued)
        clock.advance(3600)
        assert await expired(store) == [], "it has not stopped"
        await store.settle(own, ENDED, "done")
        assert await expired(store) == [], "it has only just settled"
        clock.advance(5)
        assert await expired(store) == ["t"]

    async def test_not_while_one_lives_beside_the_slot(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        own = await passing(store, me)
        beside = new_run()
        await store.insert(beside, epoch=me)
        await store.finish(own, SUCCESS)
        await cancel(store, beside.run_id)
        clock.advance(3600)
        assert await expired(store) == []

    async def test_the_runs_of_the_dead_are_ended_first(
        self, store: CoordinationStore, me: int, peer: int, clock: StoreClock
    ) -> None:
        await passing(store, peer)
        await fence_epoch(store, peer, by=me)
        clock.advance(3600)
        assert await expired(store) == []
        await store.sweep(by=me, error="gone")
        assert await expired(store) == []
        clock.advance(5)
        assert await expired(store) == ["t"]

    async def test_a_temporary_thread_waits_for_its_first_run(
        self, store: CoordinationStore, clock: StoreClock
    ) -> None:
        await store.create_thread(NewThread("t", ttl_ms=KEEP, temporary=True))
        clock.advance(59)
        assert await expired(store) == []
        clock.advance(1)
        assert await expired(store) == ["t"]

    async def test_a_thread_is_used_by_runs_saves_and_patches(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        await store.create_thread(NewThread("t", ttl_ms=60_000))
        clock.advance(50)
        await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None)
        clock.advance(50)
        assert await expired(store) == []
        own = await running(store, me)
        clock.advance(50)
        await store.finish(own, Outcome(RunStatus.error, "no"))
        clock.advance(50)
        assert await expired(store) == [], "it failed, and touched no values: used all the same"
        clock.advance(10)
        assert await expired(store) == ["t"]

    async def test_without_a_time_to_live_it_stays(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        await store.create_thread(NewThread("new"))
        await store.create_thread(NewThread("was", ttl_ms=1000))
        await store.patch_thread("was", ThreadPatch(ttl_ms=None, sets_ttl=True), user_id=None)
        await store.finish(await running(store, me, "ran"), SUCCESS)
        clock.advance(10 * 365 * 86_400)
        assert await expired(store) == []

    async def test_an_admission_onto_a_kept_thread_does_not_make_it_temporary(
        self, store: CoordinationStore, me: int
    ) -> None:
        await store.create_thread(NewThread("t", ttl_ms=60_000))
        run = new_run(temporary_ms=KEEP)
        admission = await store.admit(run, epoch=me, limits=Limits())
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.temporary, thread.ttl_ms, admission.temporary) == (False, 60_000, False)
        other = await store.admit(new_run("u", temporary_ms=KEEP), epoch=me, limits=Limits())
        assert other.temporary

    async def test_who_comes_first_wins(self, store: CoordinationStore, me: int, clock: StoreClock) -> None:
        await store.create_thread(NewThread("t", ttl_ms=1000))
        clock.advance(2)
        await holding(store, me)
        assert await expired(store) == [], "admitted a moment before the sweep"
        await store.create_thread(NewThread("u", ttl_ms=1000))
        clock.advance(2)
        assert await expired(store) == ["u"]
        with pytest.raises(ThreadNotFound):
            await store.admit(new_run("u", thread_must_exist=True), epoch=me, limits=Limits())

    async def test_a_batch_at_a_time_oldest_first(self, store: CoordinationStore, clock: StoreClock) -> None:
        for n in range(5):
            await store.create_thread(NewThread(f"t{n}", ttl_ms=1000))
            clock.advance(1)
        clock.advance(1)
        assert await expired(store, 2) == ["t0", "t1"]
        assert await expired(store, 2) == ["t2", "t3"]
        assert await expired(store, 2) == ["t4"]
        assert await expired(store, 2) == []

    async def test_fences_grow_over_a_removal(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        own = await passing(store, me)
        await store.finish(own, SUCCESS)
        clock.advance(5)
        assert await expired(store) == ["t"]
        assert (await holding(store, me)).fence == own.fence + 1

    async def test_the_fence_of_a_temporary_thread_is_forgotten_in_the_end(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        await store.finish(await passing(store, me), SUCCESS)
        await store.create_thread(NewThread("kept", ttl_ms=KEEP))
        clock.advance(5)
        assert sorted(await expired(store)) == ["kept", "t"]
        remembered = "SELECT thread_id FROM deleted_threads ORDER BY 1"
        assert sql_of(store)(remembered) == [("kept",), ("t",)]
        clock.advance(86_399)
        assert await expired(store) == []
        assert len(sql_of(store)(remembered)) == 2
        clock.advance(1)
        assert await store.has_expired_threads()
        assert await expired(store) == []
        assert sql_of(store)(remembered) == [("kept",)]
        assert not await store.has_expired_threads()

    async def test_forgetting_the_fence_of_one_thread_keeps_the_equal_fence_of_another(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        fences = set[int]()
        for thread_id in ("first", "second"):
            own = await passing(store, me, thread_id)
            fences.add(own.fence)
            await store.finish(own, SUCCESS)
            clock.advance(5)
            assert await expired(store) == [thread_id]
        assert fences == {1}
        clock.advance(86_395)
        assert await store.has_expired_threads()
        assert await expired(store) == []
        assert (await holding(store, me, "first")).fence == 1, "its fence was due"
        assert (await holding(store, me, "second")).fence == 2, "its fence was not: writers may still hold it"
