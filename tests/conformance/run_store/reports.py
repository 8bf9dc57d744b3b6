"""The audit, the derived status of a thread, the history."""

from __future__ import annotations

from stores.base import CoordinationStore
from stores.rows import Outcome, Ownership
from stores.states import CancelAction, Cause, Phase, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    cancel,
    fence_epoch,
    holding,
    row_of,
    running,
    waiting,
)


class Reports(StoreCase):
    async def test_transitions_record_actor_and_action_in_commit_order(
        self, store: CoordinationStore, clock: StoreClock, me: int
    ) -> None:
        own = await running(store, me, user_id="alice")
        clock.advance(1)
        await cancel(store, own.run_id, CancelAction.rollback, reason="stop", actor="bob")
        new = await store.refence(own)
        assert new is not None
        await store.settle(new, ENDED, "done")
        lines = await store.transitions(own.run_id)
        assert [line.what for line in lines] == ["admitted", "started", "decided", "fenced", "settled"]
        assert [line.id for line in lines] == sorted(line.id for line in lines)
        decided = lines[2]
        assert (decided.from_status, decided.to_status) == (RunStatus.running, RunStatus.interrupted)
        assert (decided.cause, decided.actor, decided.detail) == (Cause.user, "bob", "stop")
        assert (decided.epoch, decided.fence, decided.holds_thread) == (me, 1, True)
        assert decided.at - lines[1].at == 1_000_000
        assert (lines[0].actor, lines[4].fence, lines[4].holds_thread) == ("alice", 2, False)

    async def test_transitions_of_a_line_and_of_a_death(
        self, store: CoordinationStore, me: int, peer: int
    ) -> None:
        own = await running(store, me)
        run_id = await waiting(store, peer)
        await store.finish(own, SUCCESS)
        await store.claim("t", epoch=peer)
        await store.start(Ownership(run_id, "t", peer, 2), {})
        await cancel(store, run_id, CancelAction.rollback)
        await fence_epoch(store, peer, by=me)
        await store.sweep(by=me, error="gone")
        whats = [line.what for line in await store.transitions(run_id)]
        assert whats == ["queued", "claimed", "started", "decided", "adopted"]
        assert [line.what for line in await store.transitions(own.run_id)] == [
            "admitted",
            "started",
            "finished",
        ]
        dead = await running(store, me, "other")
        await fence_epoch(store, me, by=me)
        await store.sweep(by=me, error="gone")
        last = (await store.transitions(dead.run_id))[-1]
        assert (last.what, last.cause, last.to_status) == ("finished", Cause.orphaned, RunStatus.error)
        assert str(me) in (last.actor or "")

    async def test_phases(self, store: CoordinationStore, me: int) -> None:
        own = await holding(store, me)
        waits = await waiting(store, me)

        async def phase() -> Phase:
            return (await row_of(store, own.run_id)).phase

        assert (await phase(), (await row_of(store, waits)).phase) == (Phase.pending, Phase.waiting)
        await store.start(own, {})
        assert await phase() is Phase.running
        await cancel(store, own.run_id)
        assert await phase() is Phase.cancelling
        await store.settle(own, ENDED)
        assert await phase() is Phase.done
        own = await running(store, me, "u")
        await cancel(store, own.run_id, CancelAction.rollback)
        assert await phase() is Phase.rolling_back

    async def test_the_status_of_a_thread_is_that_of_its_last_run(
        self, store: CoordinationStore, me: int
    ) -> None:
        assert await store.thread("t") is None
        ends = {
            "idle": SUCCESS,
            "error": Outcome(RunStatus.timeout),
            "interrupted": SUCCESS._replace(paused=True),
        }
        for expected, outcome in ends.items():
            own = await running(store, me)
            assert await status(store) == "busy"
            await store.finish(own, outcome)
            assert await status(store) == expected
        own = await running(store, me)
        await cancel(store, own.run_id)
        assert await status(store) == "busy", "until it has stopped"
        await store.finish(own, SUCCESS)
        assert await status(store) == "interrupted", "with work left"

    async def test_runs_that_never_began_or_were_undone_do_not_change_the_status(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        await cancel(store, await waiting(store, me))
        await store.finish(own, Outcome(RunStatus.error, error="x"))
        assert await status(store) == "error", "the run that waited was created later and ended earlier"
        own = await running(store, me)
        await cancel(store, own.run_id, CancelAction.rollback)
        await store.settle(own, ENDED, "done")
        assert await status(store) == "error"


async def status(store: CoordinationStore) -> str:
    thread = await store.thread("t")
    assert thread is not None
    return thread.status
