"""Further attempts of runs whose worker has died or drains."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    cancel,
    declared_dead,
    holding,
    new_worker,
    row_of,
    running,
    thread_of,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import StaleFence
from stores.rows import Orphan, Ownership
from stores.states import CancelAction, Cause, RunStatus

_KNOWN: dict[str, Field] = {"portable": True, "assistant_id": "agent"}
_REF = {"kind": "values", "first": True}
_WEEK = 7 * 24 * 3600


async def _two(case: StoreCase) -> tuple[int, int]:
    """Two workers that know the assistant."""
    store = case.store
    return (
        await store.register(new_worker(assistants=("agent",))),
        await store.register(new_worker(assistants=("agent",))),
    )


async def _begun(store: CoordinationStore, epoch: int, *, retries: int = 1, **fields: Field) -> Ownership:
    own = await holding(store, epoch, retries=retries, **_KNOWN, **fields)
    assert await store.start(own, _REF) is not None
    return own


async def _adopted(store: CoordinationStore, by: int) -> tuple[Orphan, Ownership]:
    [orphan] = await store.sweep(by=by, error="dead")
    assert orphan.adopted is not None
    assert orphan.attempt > 0
    return orphan, orphan.adopted


async def run_of_a_dead_worker_is_continued_as_its_next_attempt(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer, timeout_ms=60_000)
    first = await row_of(store, own.run_id)
    case.clock.advance(5)
    await declared_dead(store, peer, by=me)
    orphan, adopted = await _adopted(store, me)
    assert adopted == own._replace(epoch=me, fence=own.fence + 1)
    assert (orphan.status, orphan.decided, orphan.dead_epoch) == (RunStatus.running, False, peer)
    assert (orphan.attempt, orphan.rollback_ref) == (2, _REF)
    row = await row_of(store, own.run_id)
    assert (row.status, row.holds_thread, row.attempt, row.retries) == (RunStatus.running, True, 2, 0)
    assert row.between_attempts
    assert await store.sweep(by=peer, error="dead") == [], "the adopter lives"
    started = await store.start(adopted, {"kind": "values", "first": False})
    assert started is not None
    assert started.decision.status is RunStatus.running
    row = await row_of(store, own.run_id)
    assert not row.between_attempts
    assert (row.started_at, row.deadline_at, row.rollback_ref) == (
        first.started_at,
        first.deadline_at,
        _REF,
    ), "the row keeps the first start"
    assert await store.sweep(by=me, error="dead") == []
    assert (await store.finish(adopted, SUCCESS)).status is RunStatus.success


async def adoption_is_returned_until_the_attempt_begins(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    await _begun(store, peer)
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    orphan, again = await _adopted(store, me)
    assert (again, orphan.attempt, orphan.rollback_ref) == (adopted, 2, _REF)
    assert await store.start(adopted, None) == await store.start(adopted, None)
    assert await store.sweep(by=me, error="dead") == []


async def former_owner_writes_nothing_after_the_adoption(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer)
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    await store.start(adopted, None)
    with refused(StaleFence):
        await store.save(own, {"n": 1})
    assert (await store.finish(own, SUCCESS)).lost
    assert await store.hand_over(own) is None
    assert not (await row_of(store, own.run_id)).between_attempts
    assert await store.start(own, None) is None
    await store.save(adopted, {"n": 2})
    assert (await thread_of(store)).values == {"n": 2}


async def retries_are_used_up_by_deaths(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer, retries=1)
    third = await store.register(new_worker(assistants=("agent",)))
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, third)
    await store.start(adopted, None)
    await declared_dead(store, third, by=me)
    [orphan] = await store.sweep(by=me, error="its worker died")
    assert (orphan.status, orphan.adopted, orphan.attempt) == (RunStatus.error, None, 0)
    row = await row_of(store, own.run_id)
    error = "Attempt 2 of 2: its worker died"
    assert (row.error, row.cancel_cause, row.attempt) == (error, Cause.orphaned, 2)


async def run_that_was_claimed_and_not_started_is_continued(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await holding(store, peer, retries=1, **_KNOWN)
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    row = await row_of(store, own.run_id)
    assert row.status is RunStatus.pending
    assert (row.attempt, row.retries) == (1, 1), "it has executed nothing"
    assert await store.start(adopted, _REF) is not None
    row = await row_of(store, own.run_id)
    assert (row.status, row.rollback_ref, row.between_attempts) == (RunStatus.running, _REF, False)
    assert (row.attempt, row.retries) == (1, 1)


async def run_that_has_not_started_needs_no_retries(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await holding(store, peer, **_KNOWN)
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    assert await store.start(adopted, _REF) is not None
    row = await row_of(store, own.run_id)
    assert (row.status, row.attempt, row.retries) == (RunStatus.running, 1, 0)


async def run_that_no_worker_lives_to_start_ends(case: StoreCase) -> None:
    store, (me, owner) = case.store, await _two(case)
    own = await holding(store, owner, **_KNOWN)
    for _ in range(2):
        await declared_dead(store, owner, by=me)
        owner = await store.register(new_worker(assistants=("agent",)))
        await _adopted(store, owner)
    await declared_dead(store, owner, by=me)
    [orphan] = await store.sweep(by=me, error="its worker died")
    assert (orphan.status, orphan.adopted) == (RunStatus.error, None)
    assert (
        await row_of(store, own.run_id)
    ).error == "3 workers have died before they started it. its worker died"


async def run_that_waits_outlives_any_number_of_drains(case: StoreCase) -> None:
    store, (_, owner) = case.store, await _two(case)
    own = await holding(store, owner, **_KNOWN)
    for _ in range(5):
        await store.drain(owner)
        assert await store.hand_over(own) is not None
        successor = await store.register(new_worker(assistants=("agent",)))
        _, own = await _adopted(store, successor)
        await store.retire(owner, error="it signs off")
        owner = successor
    assert await store.start(own, _REF) is not None


async def run_without_retries_or_portability_ends(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    ends = [
        await running(store, peer, "a", portable=True, assistant_id="agent"),
        await running(store, peer, "b", retries=1, assistant_id="agent"),
    ]
    await declared_dead(store, peer, by=me)
    orphans = await store.sweep(by=me, error="dead")
    assert {(orphan.run_id, orphan.status, orphan.attempt) for orphan in orphans} == {
        (own.run_id, RunStatus.error, 0) for own in ends
    }


async def decided_run_is_never_continued(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer)
    await cancel(store, own.run_id)
    await declared_dead(store, peer, by=me)
    [orphan] = await store.sweep(by=me, error="dead")
    assert (orphan.status, orphan.adopted, orphan.attempt) == (RunStatus.interrupted, None, 0)
    assert await store.holder("t") is None


async def rollback_of_a_second_attempt_undoes_both(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    await store.finish(await running(store, peer), SUCCESS._replace(values={"n": 0}))
    own = await _begun(store, peer)
    await store.save(own, {"n": 1})
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    await store.start(adopted, {"kind": "values"})
    await store.save(adopted, {"n": 2})
    await cancel(store, own.run_id, CancelAction.rollback)
    assert (await store.finish(adopted, ENDED)).undo
    assert await store.restore(adopted) == {"n": 0}
    await store.settle(adopted, ENDED, "done")
    assert (await thread_of(store)).values == {"n": 0}


async def run_waits_for_a_worker_that_knows_its_assistant(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await _begun(store, peer)
    await declared_dead(store, peer, by=me)
    assert await store.sweep(by=me, error="dead") == []
    assert (await row_of(store, own.run_id)).status is RunStatus.running
    knows = await store.register(new_worker(assistants=("agent",)))
    case.clock.advance(_WEEK)
    assert await store.sweep(by=me, error="dead") == [], "a live worker knows it"
    _, adopted = await _adopted(store, knows)
    assert adopted.epoch == knows


async def run_that_no_worker_knows_ends_after_a_while(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await _begun(store, peer)
    case.clock.advance(_WEEK)
    await declared_dead(store, peer, by=me)
    assert await store.sweep(by=me, error="dead") == []
    case.clock.advance(601)
    [orphan] = await store.sweep(by=me, error="dead")
    assert (orphan.run_id, orphan.status) == (own.run_id, RunStatus.error)


async def worker_that_leaves_ends_no_run_that_can_continue(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own, ends = await _begun(store, peer), await running(store, peer, "u")
    assert [orphan.run_id for orphan in await store.retire(peer)] == [ends.run_id]
    orphan, _ = await _adopted(store, me)
    assert orphan.run_id == own.run_id


async def handed_over_run_is_continued_while_its_worker_drains(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer, retries=0)
    await store.drain(peer)
    assert await store.sweep(by=me, error="dead") == [], "its worker executes it"
    standing = await store.hand_over(own)
    assert standing is not None
    assert (standing.status, standing.settled, standing.owner_epoch) == (RunStatus.running, False, peer)
    assert await store.hand_over(own) == standing, "repeated, it returns the same"
    assert (await row_of(store, own.run_id)).between_attempts
    assert await store.sweep(by=peer, error="dead") == [], "a draining worker continues nothing"
    _, adopted = await _adopted(store, me)
    row = await row_of(store, own.run_id)
    assert (row.attempt, row.retries, row.owner_epoch) == (2, 0, me)
    assert await store.hand_over(own) is None, "lost"
    assert await store.start(adopted, None) is not None
    what = [line.what for line in await store.transitions(own.run_id)]
    assert what.count("handed over") == 1
    assert what.index("handed over") < what.index("adopted")


async def run_handed_over_is_continued_after_the_death_of_its_worker(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer, retries=1)
    await store.hand_over(own)
    assert await store.sweep(by=me, error="dead") == [], "its worker lives and does not drain"
    await store.retire(peer)
    _, adopted = await _adopted(store, me)
    row = await row_of(store, own.run_id)
    assert (row.attempt, row.retries, row.owner_epoch) == (2, 1, adopted.epoch)


async def decided_run_is_not_handed_over(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer)
    await store.drain(peer)
    await cancel(store, own.run_id)
    standing = await store.hand_over(own)
    assert standing is not None
    assert standing.status is RunStatus.interrupted
    assert await store.sweep(by=me, error="dead") == []
    assert (await row_of(store, own.run_id)).stopped_at is None
    assert (await store.finish(own, ENDED)).status is RunStatus.interrupted


async def cancel_of_a_run_between_attempts_is_settled_by_its_owner(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    own = await _begun(store, peer)
    await store.drain(peer)
    await store.hand_over(own)
    await cancel(store, own.run_id)
    assert not (await row_of(store, own.run_id)).between_attempts, "a cancelled run gets no further attempt"
    assert own.run_id in (await store.tick(peer)).cancelled
    assert await store.sweep(by=me, error="dead") == []
    assert (await store.finish(own, ENDED)).status is RunStatus.interrupted
    assert await store.holder("t") is None


async def cancel_of_an_adopted_run_is_returned_to_the_adopter(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    await _begun(store, peer)
    await declared_dead(store, peer, by=me)
    _, adopted = await _adopted(store, me)
    await cancel(store, adopted.run_id)
    [orphan] = await store.sweep(by=me, error="dead")
    assert (orphan.adopted, orphan.decided, orphan.status) == (adopted, True, RunStatus.interrupted)
    started = await store.start(adopted, None)
    assert started is not None
    assert started.decision.status is RunStatus.interrupted
    await store.finish(adopted, ENDED)
    assert await store.sweep(by=me, error="dead") == []


async def sweep_leaves_a_part_of_the_runs_to_other_workers(case: StoreCase) -> None:
    store, (me, peer) = case.store, await _two(case)
    third = await store.register(new_worker(assistants=("agent",)))
    for number in range(70):
        own = await admitted(store, peer, f"t{number}", retries=1, start_ref=_REF, **_KNOWN)
        assert own.holds
    await declared_dead(store, peer, by=me)
    assert len(await store.sweep(by=me, error="dead")) == 64
    assert len(await store.sweep(by=third, error="dead")) == 6


_CONTINUES = "a run whose worker has died or drains is continued by one worker, or ends once"

ATTEMPTS: tuple[Check[StoreCase], ...] = checks_of(
    run_of_a_dead_worker_is_continued_as_its_next_attempt,
    adoption_is_returned_until_the_attempt_begins,
    former_owner_writes_nothing_after_the_adoption,
    retries_are_used_up_by_deaths,
    run_that_was_claimed_and_not_started_is_continued,
    run_that_has_not_started_needs_no_retries,
    run_that_no_worker_lives_to_start_ends,
    run_that_waits_outlives_any_number_of_drains,
    run_without_retries_or_portability_ends,
    decided_run_is_never_continued,
    rollback_of_a_second_attempt_undoes_both,
    run_waits_for_a_worker_that_knows_its_assistant,
    run_that_no_worker_knows_ends_after_a_while,
    worker_that_leaves_ends_no_run_that_can_continue,
    handed_over_run_is_continued_while_its_worker_drains,
    run_handed_over_is_continued_after_the_death_of_its_worker,
    decided_run_is_not_handed_over,
    cancel_of_a_run_between_attempts_is_settled_by_its_owner,
    cancel_of_an_adopted_run_is_returned_to_the_adopter,
    sweep_leaves_a_part_of_the_runs_to_other_workers,
    promise=_CONTINUES,
)
