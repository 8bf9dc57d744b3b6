"""What keeps a run waiting, or out of the queue: delays, limits of the queue, time limits."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    STRATEGIES,
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    holding,
    new_run,
    row_of,
    running,
    thread_of,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import ConflictError, QueueFull
from stores.rows import Claimed, Decision, Limits, Overdue, Ownership
from stores.states import CancelAction, Cause, RunStatus


async def delayed(store: CoordinationStore, epoch: int, seconds: float = 10, **fields: Field) -> str:
    options: dict[str, Field] = {"multitask_strategy": "enqueue", **fields}
    admission = await admitted(store, epoch, delay_ms=round(seconds * 1000), **options)
    assert not admission.holds, "a delayed run takes no thread"
    return admission.run_id


async def delayed_run_waits_for_its_time_on_an_idle_thread(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    run_id = await delayed(store, me)
    row = await row_of(store, run_id)
    assert (row.status, row.delayed, row.waiting) == (RunStatus.pending, True, True)
    assert row.not_before == case.clock.micros + 10_000_000
    assert await store.claim("t", epoch=me) is None
    assert (await store.tick(me)).free_threads == ()
    assert await store.waiting_line("t") == []
    case.clock.advance(10)
    assert (await store.tick(me)).free_threads == ("t",)
    assert await store.claim("t", epoch=me) == Claimed(run_id, 1)
    row = await row_of(store, run_id)
    assert (row.delayed, row.not_before, row.holds_thread) == (False, None, True)
    steps = [(step.what, step.holds_thread) for step in await store.transitions(run_id)]
    assert steps == [("delayed", False), ("queued", False), ("claimed", True)]


async def delayed_runs_are_queued_in_the_order_of_their_due_times(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    later, sooner = await delayed(store, me, 20), await delayed(store, me, 10)
    same = await delayed(store, me, 20)
    before = await waiting(store, me)
    case.clock.advance(30)
    assert await store.claim("t", epoch=me) is None, "the thread is held"
    assert await store.waiting_line("t") == [before, sooner, later, same]
    assert (await store.finish(own, SUCCESS)).next_home == me
    assert (await store.claim("t", epoch=me) or ("",))[0] == before


async def delayed_run_blocks_runs_with_reject_alone(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    run_id = await delayed(store, me)
    with refused(ConflictError) as errors:
        await admitted(store, me)
    assert errors[0].active_run_id == run_id == await store.holder("t")
    assert (await thread_of(store)).status == "busy"
    passes = await admitted(store, me, multitask_strategy="enqueue")
    assert passes.holds, "it passes the delayed run"
    with refused(ConflictError) as errors:
        await admitted(store, me)
    assert errors[0].active_run_id == passes.run_id == await store.holder("t")


async def queue_is_bounded_per_thread_and_per_user(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    limits = Limits(per_thread=1, per_user=2)

    async def queued(thread_id: str) -> bool:
        run = new_run(thread_id, multitask_strategy="enqueue", user_id="u")
        return not (await store.admit(run, epoch=me, limits=limits)).holds

    for thread in "abc":
        await holding(store, me, thread, user_id="u")
    assert await queued("a")
    with refused(QueueFull) as errors:
        await queued("a")
    assert "thread" in str(errors[0])
    assert await queued("b")
    with refused(QueueFull) as errors:
        await queued("c")
    assert "user" in str(errors[0])
    assert not await queued("d"), "a free thread is taken"


async def run_that_replaces_others_counts_against_the_limit_of_its_user(case: StoreCase) -> None:
    """Otherwise a user could have one run waiting on each of any number of threads."""
    store, (me, _) = case.store, await case.workers()
    limits = Limits(per_user=1)
    for thread in "ab":
        await running(store, me, thread, user_id="u")
    for strategy in STRATEGIES[2:]:
        await store.admit(new_run("a", multitask_strategy=strategy, user_id="u"), epoch=me, limits=limits)
        [mine] = await store.runs(thread_id="b")
        with refused(QueueFull):
            await store.admit(new_run("b", multitask_strategy=strategy, user_id="u"), epoch=me, limits=limits)
        assert (await row_of(store, mine.run_id)).status is RunStatus.running, "nothing was replaced"
    await store.admit(new_run("b", multitask_strategy="rollback"), epoch=me, limits=limits)  # the system


async def time_of_a_run_counts_from_its_start(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await holding(store, me, timeout_ms=5_000, idle_timeout_ms=1_000)
    case.clock.advance(60)
    assert (await store.tick(peer)).overdue == ()
    assert await store.start(own, None) is not None
    assert (await row_of(store, own.run_id)).deadline_at == case.clock.micros + 5_000_000
    case.clock.advance(4.9)
    assert (await store.tick(peer)).overdue == ()
    case.clock.advance(0.2)
    assert (await store.tick(peer)).overdue == (Overdue(own.run_id, Cause.timeout),), "any worker reads it"
    await _timed_out(store, own.run_id, Cause.timeout)
    assert (await store.tick(peer)).overdue == ()


async def time_in_the_queue_is_limited(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    run_id = await waiting(store, me, queue_timeout_ms=2_000)
    claimed = await waiting(store, me, queue_timeout_ms=2_000)
    case.clock.advance(1.9)
    assert (await store.tick(peer)).overdue == ()
    case.clock.advance(0.2)
    overdue = {Overdue(each, Cause.queue_timeout) for each in (run_id, claimed)}
    assert set((await store.tick(peer)).overdue) == overdue
    decision = await _timed_out(store, run_id, Cause.queue_timeout, while_waiting=True)
    assert (decision.won, decision.settled, decision.status) == (True, True, RunStatus.timeout)
    await store.finish(own, SUCCESS)
    assert await store.claim("t", epoch=me) == Claimed(claimed, 2)
    assert (await store.tick(peer)).overdue == ()
    decision = await _timed_out(store, claimed, Cause.queue_timeout, while_waiting=True)
    assert (decision.won, decision.status) == (False, RunStatus.pending), "it waits no more"
    assert await store.start(Ownership(claimed, "t", me, 2), None) is not None


async def _timed_out(store: CoordinationStore, run_id: str, cause: Cause, **fields: Field) -> Decision:
    decision = await store.decide(
        run_id, RunStatus.timeout, action=CancelAction.interrupt, cause=cause, **fields
    )
    assert decision is not None
    return decision


QUEUES: tuple[Check[StoreCase], ...] = (
    *checks_of(
        delayed_run_waits_for_its_time_on_an_idle_thread,
        delayed_runs_are_queued_in_the_order_of_their_due_times,
        delayed_run_blocks_runs_with_reject_alone,
        promise="a delayed run waits until its time has come",
    ),
    *checks_of(
        queue_is_bounded_per_thread_and_per_user,
        run_that_replaces_others_counts_against_the_limit_of_its_user,
        promise="a queue gets no longer than its limits",
    ),
    *checks_of(
        time_of_a_run_counts_from_its_start,
        time_in_the_queue_is_limited,
        promise="a run that is past a time limit is reported to every worker",
    ),
)
