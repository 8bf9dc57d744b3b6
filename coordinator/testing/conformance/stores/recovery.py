"""Workers, and what becomes of the runs of dead ones."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    StoreCase,
    cancel,
    declared_dead,
    holding,
    new_worker,
    row_of,
    running,
    thread_of,
    waiting,
    worker_row,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.errors import EpochDead, StaleFence
from stores.rows import Claimed, DrainRequested, DrainWish, HandedOver
from stores.states import CancelAction, Cause, RunStatus, WorkerState


async def restart_is_a_new_epoch(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    worker = new_worker(worker_id="same")
    first = await store.register(worker)
    await store.retire(first)
    second = await store.register(worker)
    assert me < peer < first < second
    assert [row.epoch for row in await store.workers()] == [me, peer, second]
    assert (await worker_row(store, first)).state is WorkerState.dead


async def beat_renews_the_lease_until_the_worker_is_fenced(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    case.clock.advance(16)
    assert (await worker_row(store, peer)).expired
    assert await store.beat(peer)
    renewed = await worker_row(store, peer)
    assert (renewed.hb_seq, renewed.expired) == (1, False)
    await declared_dead(store, peer, by=me)
    assert not await store.beat(peer)
    assert not await store.beat(999)
    assert (await worker_row(store, peer)).fenced_by == me


async def worker_that_renews_after_it_was_read_is_not_fenced(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, peer)
    case.clock.advance(16)
    seen = await worker_row(store, peer)
    await store.beat(peer)
    case.clock.advance(16)
    for proven in (False, True):
        assert not await store.fence_worker(seen, by=me, proven=proven)
    await store.sweep(by=me, error="dead")
    assert (await row_of(store, own.run_id)).status is RunStatus.running


async def without_proof_a_lease_must_have_expired(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    seen = await worker_row(store, peer)
    assert not await store.fence_worker(seen, by=me, proven=False)
    case.clock.advance(15.1)
    assert await store.fence_worker(seen, by=me, proven=False)
    assert not await store.fence_worker(seen, by=me, proven=False), "once"


async def worker_is_declared_dead_on_the_word_of_an_actor(case: StoreCase) -> None:
    """Whatever its lease; its runs have the name of the actor."""
    store, (me, peer) = case.store, await case.workers()
    own, stopping = await running(store, peer, "a"), await running(store, peer, "b")
    await cancel(store, stopping.run_id, actor="u")
    assert await store.beat(peer)
    assert await store.declare_dead(peer, by=me, actor="alice")
    assert not await store.declare_dead(peer, by=me, actor="bob"), "it is dead already"
    assert not await store.declare_dead(4711, by=me, actor="bob"), "it is unknown"
    assert not await store.beat(peer)
    assert (await store.finish(own, SUCCESS)).lost
    assert len(await store.sweep(by=me, error="gone")) == 2
    row = await row_of(store, own.run_id)
    assert (row.status, row.cancel_cause) == (RunStatus.error, Cause.orphaned)
    assert row.cancel_actor == f"worker epoch {peer} was declared dead by alice"
    assert (await store.transitions(own.run_id))[-1].actor == row.cancel_actor
    assert (await row_of(store, stopping.run_id)).cancel_actor == "u"


async def requested_drain_is_read_by_the_tick_of_its_worker(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    assert await store.request_drain(peer, grace=1.5) == [DrainRequested(peer, already=False)]
    wish = DrainWish(case.clock.micros, 1.5)
    assert ((await store.tick(peer)).drain, (await store.tick(me)).drain) == (wish, None)
    await holding(store, peer)
    case.clock.advance(1)
    assert (await store.tick(peer)).drain == wish
    await store.drain(peer)
    requested = [DrainRequested(me, already=False), DrainRequested(peer, already=True)]
    assert await store.request_drain(None, grace=None) == requested
    last = DrainWish(case.clock.micros, None)
    assert (await store.tick(me)).drain == (await store.tick(peer)).drain == last


async def dead_worker_gets_no_drain_request(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    await declared_dead(store, peer, by=me)
    assert await store.request_drain(peer, grace=0) == []
    assert [request.epoch for request in await store.request_drain(None, grace=0)] == [me]
    assert (await store.tick(peer)).drain is None


async def draining_worker_admits_nothing_and_hands_over_what_waits(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, peer)
    goes, stays = await waiting(store, me, portable=True), await waiting(store, me)
    theirs = await waiting(store, peer, portable=True)
    assert await store.drain(me) == [HandedOver(goes, "t")]
    assert [(await row_of(store, run)).home_epoch for run in (goes, stays, theirs)] == [None, me, peer]
    states = [(row.epoch, row.state) for row in await store.workers()]
    assert states == [(me, WorkerState.draining), (peer, WorkerState.live)]
    assert (await store.tick(me)).waiting == (stays,)
    last = (await store.transitions(goes))[-1]
    assert (last.what, last.epoch) == ("handed over", me)
    assert await store.drain(me) == [], "repeated, it has nothing left"
    with refused(EpochDead):
        await holding(store, me, "other")
    assert await store.beat(me), "it is live until it has retired"
    assert not (await store.finish(own, SUCCESS)).lost


async def sweep_ends_the_runs_of_dead_workers_alone(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    lives = await running(store, me, "a")
    dies = await running(store, peer, "b")
    never_started = await holding(store, peer, "c")
    waits = await waiting(store, peer, "a")
    await declared_dead(store, peer, by=me)
    ended = await store.sweep(by=me, error="its worker died")
    assert {(o.run_id, o.status, o.dead_epoch, o.decided) for o in ended} == {
        (run_id, RunStatus.error, peer, False) for run_id in (dies.run_id, never_started.run_id, waits)
    }
    row = await row_of(store, dies.run_id)
    assert (row.error, row.cancel_cause, row.settled) == ("its worker died", Cause.orphaned, True)
    assert (await row_of(store, lives.run_id)).status is RunStatus.running
    assert await store.sweep(by=me, error="again") == [], "each recovery is returned once"


async def decided_run_of_a_dead_worker_settles(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, peer)
    await cancel(store, own.run_id, reason="stop")
    await declared_dead(store, peer, by=me)
    [orphan] = await store.sweep(by=me, error="dead")
    row = await row_of(store, own.run_id)
    assert (orphan.status, orphan.decided, orphan.adopted) == (RunStatus.interrupted, True, None)
    assert (row.status, row.error, row.cancel_cause) == (RunStatus.interrupted, None, Cause.user)
    assert row.settled


async def cancel_after_the_death_of_the_owner_does_not_keep_the_thread(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, peer)
    await declared_dead(store, peer, by=me)
    await cancel(store, own.run_id)
    assert len(await store.sweep(by=me, error="dead")) == 1
    assert await store.holder("t") is None


async def run_that_is_not_portable_ends_with_its_home(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    run_id = await waiting(store, peer)
    behind = await waiting(store, me)
    await store.finish(own, SUCCESS)
    await declared_dead(store, peer, by=me)
    assert await store.claim("t", epoch=me) is None
    await store.sweep(by=me, error="dead")
    assert (await row_of(store, run_id)).status is RunStatus.error
    assert await store.claim("t", epoch=me) == Claimed(behind, 2)


async def waiting_portable_run_is_left_to_a_worker_that_can_execute_it(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    knows = await store.register(new_worker(assistants=("agent",)))
    run_id = await waiting(store, peer, portable=True, assistant_id="agent")
    await declared_dead(store, peer, by=me)
    assert await store.sweep(by=me, error="dead") == []
    assert (await store.tick(knows)).free_threads == ()
    await store.finish(own, SUCCESS)
    assert (await store.tick(knows)).free_threads == ("t",)
    assert await store.claim("t", epoch=me) is None, "it does not know the assistant"
    assert await store.claim("t", epoch=knows) == Claimed(run_id, 2)


async def dead_epoch_claims_and_starts_nothing(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await holding(store, peer)
    await declared_dead(store, peer, by=me)
    with refused(EpochDead):
        await store.claim("t", epoch=peer)
    assert await store.start(own, None) is None


async def records_of_a_dead_worker_are_refused(case: StoreCase, when: str) -> None:
    """Writes that were queued before the worker was fenced; not those of a run that had settled by then."""
    store, (me, peer) = case.store, await case.workers()
    own, settled = await running(store, peer), await running(store, peer, "u")
    await store.finish(settled, SUCCESS)
    case.clock.advance(1)
    await declared_dead(store, peer, by=me)
    if when == "after the sweep":
        await store.sweep(by=me, error="dead")
    assert await store.update_run_progress(own.run_id, total_tokens=1) is False
    for status in ("success", "error"):
        assert await store.update_run_completion(own.run_id, status=status, total_tokens=1) is False
    assert await store.update_status(own.run_id, "success") is False
    assert await store.update_model_name(own.run_id, "late") is False
    row = await row_of(store, own.run_id)
    assert (row.counters["total_tokens"], row.model_name) == (0, None)
    assert await store.update_run_completion(settled.run_id, status="success", total_tokens=9) is True


async def half_done_rollback_is_adopted_with_a_newer_fence(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    await store.finish(await running(store, peer), SUCCESS._replace(values={"n": 0}))
    own = await running(store, peer)
    await store.save(own, {"n": 1})
    await cancel(store, own.run_id, CancelAction.rollback)
    await declared_dead(store, peer, by=me)
    [orphan] = await store.sweep(by=me, error="dead")
    assert orphan.adopted == own._replace(epoch=me, fence=own.fence + 1)
    assert (orphan.decided, orphan.dead_epoch, orphan.rollback_ref["kind"]) == (True, peer, "values")
    with refused(StaleFence):
        await store.restore(own)
    assert orphan.adopted is not None
    assert await store.restore(orphan.adopted) == {"n": 0}
    assert (await store.settle(orphan.adopted, ENDED, "done")).status is RunStatus.interrupted
    assert (await thread_of(store)).values == {"n": 0}
    assert await store.sweep(by=me, error="dead") == []


_LEASES = "a worker with a lease is not declared dead"
_SWEEPS = "the runs of dead workers end, and no others"
_DRAINS = "a worker that is requested to drain reads that in its tick, and drains without losing a run"
_DEAD = "a dead worker writes nothing"

RECOVERY: tuple[Check[StoreCase], ...] = (
    *checks_of(
        restart_is_a_new_epoch,
        beat_renews_the_lease_until_the_worker_is_fenced,
        worker_that_renews_after_it_was_read_is_not_fenced,
        without_proof_a_lease_must_have_expired,
        promise=_LEASES,
    ),
    *checks_of(
        worker_is_declared_dead_on_the_word_of_an_actor,
        promise="a worker is declared dead on the word of an actor, whatever its lease",
    ),
    *checks_of(
        requested_drain_is_read_by_the_tick_of_its_worker,
        dead_worker_gets_no_drain_request,
        draining_worker_admits_nothing_and_hands_over_what_waits,
        promise=_DRAINS,
    ),
    *checks_of(
        sweep_ends_the_runs_of_dead_workers_alone,
        decided_run_of_a_dead_worker_settles,
        cancel_after_the_death_of_the_owner_does_not_keep_the_thread,
        run_that_is_not_portable_ends_with_its_home,
        waiting_portable_run_is_left_to_a_worker_that_can_execute_it,
        half_done_rollback_is_adopted_with_a_newer_fence,
        promise=_SWEEPS,
    ),
    *checks_of(dead_epoch_claims_and_starts_nothing, promise=_DEAD),
    *checks_for(("before the sweep", "after the sweep"), records_of_a_dead_worker_are_refused, promise=_DEAD),
)
