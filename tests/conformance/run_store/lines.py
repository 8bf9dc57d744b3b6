"""claim, and the order of the queue."""

from __future__ import annotations

import pytest

from stores.base import CoordinationStore
from stores.rows import ANY_WORKER, Claimed, Ownership
from stores.states import RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    sql_of,
    waiting,
)


class WaitingLines(StoreCase):
    async def test_claimed_run_is_answered_again_although_others_are_in_flight_beside_it(
        self, store: CoordinationStore, me: int
    ) -> None:
        """The answer is the holder, whichever other runs are in flight: one that was inserted without the
        queue, or one that was imported."""
        own = await running(store, me)
        run_id = await waiting(store, me)
        await store.finish(own, SUCCESS)
        claimed = await store.claim("t", epoch=me)
        assert claimed == Claimed(run_id, 2)
        assert not (await store.insert(new_run(), epoch=me)).holds
        await store.put("imported", thread_id="t", status="running")
        assert await store.claim("t", epoch=me) == claimed

    async def test_also_where_it_was_decided_before_it_started(
        self, store: CoordinationStore, me: int
    ) -> None:
        """A worker that lost the first answer would otherwise leave the thread held for ever."""
        first = await holding(store, me)
        run_id = await waiting(store, me)
        await store.finish(first, SUCCESS)
        claimed = await store.claim("t", epoch=me)
        assert claimed is not None
        await cancel(store, run_id)
        assert await store.claim("t", epoch=me) == claimed
        own = Ownership(run_id, "t", me, claimed.fence)
        assert (await store.finish(own, ENDED)).status is RunStatus.interrupted
        assert await store.claim("t", epoch=me) is None

    async def test_nothing_is_claimed_on_an_idle_or_unknown_thread(
        self, store: CoordinationStore, me: int
    ) -> None:
        assert await store.claim("t", epoch=me) is None
        await store.finish(await holding(store, me), SUCCESS)
        assert await store.claim("t", epoch=me) is None

    async def test_a_run_beside_the_slot_is_waited_for(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        beside = await store.insert(new_run(), epoch=me)
        await waiting(store, me)
        await store.finish(own, SUCCESS)
        assert await store.claim("t", epoch=me) is None
        await store.finish(Ownership(beside.run_id, "t", me, 0), SUCCESS)
        assert await store.claim("t", epoch=me) is not None

    async def test_only_the_home_claims_while_it_lives(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        run_id = await waiting(store, me, portable=True)
        assert (await store.finish(own, SUCCESS)).next_home == me
        assert await store.claim("t", epoch=peer) is None
        assert await store.claim("t", epoch=me) == Claimed(run_id, 2)

    @pytest.mark.parametrize("home", ["dead", "none", "missing"])
    async def test_portable_run_without_a_home_is_claimed_by_a_worker_with_its_assistant(
        self, store: CoordinationStore, me: int, peer: int, home: str
    ) -> None:
        knows = await store.register(new_worker(assistants=("other", "agent")))
        own = await running(store, me)
        run_id = await waiting(store, peer, portable=True, assistant_id="agent")
        behind = await waiting(store, me)
        await store.finish(own, SUCCESS)
        if home == "dead":
            await fence_epoch(store, peer, by=me)
        else:
            epoch = None if home == "none" else 4711
            sql_of(store)("UPDATE runs SET home_epoch = ? WHERE run_id = ?", epoch, run_id)
        assert (await row_of(store, run_id)).waiting
        assert await store.waiting_line("t") == [run_id, behind]
        assert await store.claim("t", epoch=me) is None, (
            "this worker lacks the assistant, and its own run is not next"
        )
        assert (await store.tick(me)).free_threads == (), "nor does it try at every tick"
        assert (await store.tick(knows)).free_threads == ("t",)
        assert await store.sweep(by=me, error="gone") == []
        assert await store.claim("t", epoch=knows) == Claimed(run_id, 2)
        assert await store.claim("t", epoch=knows) == Claimed(run_id, 2), "the first answer may be lost"
        row = await row_of(store, run_id)
        assert (row.owner_epoch, row.home_epoch) == (knows, knows)

    @pytest.mark.parametrize("home", ["dead", "none", "missing"])
    async def test_next_home_of_a_portable_head_without_a_live_home_is_any_worker(
        self, store: CoordinationStore, me: int, peer: int, home: str
    ) -> None:
        """Both `finish` and `settle` return it, and a repeated call returns it again."""
        knows = await store.register(new_worker(assistants=("agent",)))
        own = await running(store, me)
        line = [await waiting(store, peer, portable=True, assistant_id="agent") for _ in range(2)]
        if home == "dead":
            await fence_epoch(store, peer, by=me)
        else:
            epoch = None if home == "none" else 4711
            for run_id in line:
                sql_of(store)("UPDATE runs SET home_epoch = ? WHERE run_id = ?", epoch, run_id)
        assert (await store.finish(own, SUCCESS)).next_home == ANY_WORKER
        assert (await store.finish(own, SUCCESS)).next_home == ANY_WORKER
        claimed = await store.claim("t", epoch=knows)
        assert claimed == Claimed(line[0], 2)
        await cancel(store, line[0])
        own = Ownership(line[0], "t", knows, 2)
        assert (await store.settle(own, ENDED)).next_home == ANY_WORKER
        assert await store.claim("t", epoch=knows) == Claimed(line[1], 3)
        assert (await store.finish(Ownership(line[1], "t", knows, 3), SUCCESS)).next_home is None

    async def test_a_handed_over_line_has_any_worker_as_next_home(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        run_id = await waiting(store, peer, portable=True, assistant_id="agent")
        assert [run.run_id for run in await store.drain(peer)] == [run_id]
        assert (await store.finish(own, SUCCESS)).next_home == ANY_WORKER

    async def test_draining_worker_claims_no_orphaned_run(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        """Its tick does not name the thread either: otherwise it would try again at every tick."""
        leaves, stays = [await store.register(new_worker(assistants=("agent",))) for _ in range(2)]
        own = await running(store, me)
        run_id = await waiting(store, peer, portable=True, assistant_id="agent")
        await store.finish(own, SUCCESS)
        await fence_epoch(store, peer, by=me)
        await store.drain(leaves)
        assert (await store.tick(leaves)).free_threads == ()
        assert await store.claim("t", epoch=leaves) is None
        assert await store.claim("t", epoch=stays) == Claimed(run_id, 2)

    async def test_portable_run_without_a_worker_for_its_assistant_is_ended(
        self, store: CoordinationStore, clock: StoreClock, me: int, peer: int
    ) -> None:
        knows = await store.register(new_worker(assistants=("agent",)))
        own = await running(store, me)
        run_id = await waiting(store, peer, portable=True, assistant_id="agent")
        behind = await waiting(store, me)
        await store.finish(own, SUCCESS)
        await fence_epoch(store, peer, by=me)
        clock.advance(3600)
        assert await store.sweep(by=me, error="gone") == [], "a live worker has its assistant"
        await fence_epoch(store, knows, by=me)
        assert [orphan.run_id for orphan in await store.sweep(by=me, error="gone")] == [run_id]
        assert await store.claim("t", epoch=me) == Claimed(behind, 2)

    async def test_queued_run_cannot_be_set_to_running(self, store: CoordinationStore, me: int) -> None:
        await running(store, me)
        run_id = await waiting(store, me)
        assert await store.update_status(run_id, "running") is False
        assert (await row_of(store, run_id)).waiting

    async def test_holder_is_the_holder_or_the_oldest_in_flight(
        self, store: CoordinationStore, me: int
    ) -> None:
        assert await store.holder("t") is None
        own = await running(store, me)
        first = await waiting(store, me)
        await waiting(store, me)
        assert await store.holder("t") == own.run_id
        await store.finish(own, SUCCESS)
        assert await store.holder("t") == first

    async def test_each_thread_has_its_own_queue(self, store: CoordinationStore, me: int) -> None:
        await running(store, me, "a")
        run_id = await waiting(store, me, "a")
        await running(store, me, "b")
        assert await store.waiting_line("b") == []
        assert await store.waiting_line("a") == [run_id]
        assert (await admitted(store, me, "c")).holds
