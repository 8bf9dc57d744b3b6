"""How runs get onto their threads: strategies, the queue, idempotency, users."""

from __future__ import annotations

import asyncio

from coordinator.testing.conformance.stores.builders import (
    STRATEGIES,
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    cancel,
    decided,
    declared_dead,
    holding,
    new_run,
    row_of,
    running,
    thread_of,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.errors import ConflictError, EpochDead, IdempotencyConflict, ThreadNotFound
from stores.rows import Admission, Claimed, Limits, Ownership
from stores.states import CancelAction, Cause, RunStatus

NONE = Limits()


async def idle_thread_is_taken_with_a_new_fence(case: StoreCase, strategy: str) -> None:
    store, (me, _) = case.store, await case.workers()
    first = await admitted(store, me, multitask_strategy=strategy)
    assert (first.holds, first.fence, first.replaced) == (True, 1, ())
    assert (await store.finish(Ownership(first.run_id, "t", me, 1), SUCCESS)).status is RunStatus.success
    assert (await admitted(store, me, multitask_strategy=strategy)).fence == 2


async def admission_is_repeatable(case: StoreCase, strategy: str) -> None:
    store, (me, _) = case.store, await case.workers()
    await running(store, me)
    run = new_run(multitask_strategy=strategy)
    if strategy == "reject":
        for _ in range(2):
            with refused(ConflictError):
                await store.admit(run, epoch=me, limits=NONE)
        return
    first, again = [await store.admit(run, epoch=me, limits=NONE) for _ in range(2)]
    assert (again.run_id, again.holds, again.fence, again.seq) == (
        first.run_id,
        first.holds,
        first.fence,
        first.seq,
    )
    assert first.existing is None
    assert again.existing is not None
    assert len(await store.runs(thread_id="t")) == 2


async def reject_names_the_holder_and_changes_nothing(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    with refused(ConflictError) as errors:
        await admitted(store, me)
    assert errors[0].active_run_id == own.run_id
    assert (await row_of(store, own.run_id)).status is RunStatus.running


async def reject_conflicts_with_a_run_that_is_stopping(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await cancel(store, own.run_id)
    with refused(ConflictError):
        await admitted(store, me)
    await store.finish(own, SUCCESS)
    assert (await admitted(store, me)).holds


async def enqueue_joins_the_queue_also_where_no_run_holds_the_thread(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    first = await waiting(store, peer)
    await store.finish(own, SUCCESS)
    second = await waiting(store, me)
    assert await store.waiting_line("t") == [first, second]
    with refused(ConflictError) as errors:
        await admitted(store, me)
    assert errors[0].active_run_id == first


async def runs_in_flight_are_decided_and_the_new_run_waits(case: StoreCase, strategy: str) -> None:
    store, (me, peer) = case.store, await case.workers()
    holder = await running(store, peer)
    waiter = await waiting(store, me)
    admission = await admitted(store, me, multitask_strategy=strategy, user_id="u")
    assert not admission.holds
    assert {(d.run_id, d.won, d.settled) for d in admission.replaced} == {
        (holder.run_id, True, False),
        (waiter, True, True),
    }
    row = await row_of(store, holder.run_id)
    assert (row.status, row.holds_thread) == (RunStatus.interrupted, True)
    assert (row.cancel_action, row.cancel_cause, row.cancel_actor) == (strategy, Cause.superseded, "u")
    assert (await row_of(store, waiter)).settled
    assert await store.waiting_line("t") == [admission.run_id]


async def interrupt_takes_the_thread_where_all_runs_wait(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    waiter = await waiting(store, peer)
    await store.finish(own, SUCCESS)
    admission = await admitted(store, me, multitask_strategy="interrupt")
    assert (admission.holds, admission.fence) == (True, 2)
    assert (await row_of(store, waiter)).status is RunStatus.interrupted


async def refused_admission_changes_no_run(case: StoreCase) -> None:
    """The decisions over the old runs and the new row are one unit."""
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    with refused(TypeError, ValueError):
        await admitted(store, me, multitask_strategy="interrupt", metadata={"x": object()})
    assert (await row_of(store, own.run_id)).status is RunStatus.running


async def first_action_over_a_run_stays(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await cancel(store, own.run_id, CancelAction.interrupt)
    admission = await admitted(store, me, multitask_strategy="rollback")
    assert [(d.won, d.action) for d in admission.replaced] == [(False, CancelAction.interrupt)]


async def of_concurrent_admissions_one_holds(case: StoreCase) -> None:
    store, epochs = case.store, await case.workers()
    answers = await asyncio.gather(
        *(admitted(store, epochs[at % 2], multitask_strategy="enqueue") for at in range(20))
    )
    rows = await store.runs(thread_id="t")
    assert sum(answer.holds for answer in answers) == sum(row.holds_thread for row in rows) == 1
    assert len({answer.seq for answer in answers}) == 20


async def of_concurrent_rejects_one_is_admitted(case: StoreCase) -> None:
    store, epochs = case.store, await case.workers()
    answers = await asyncio.gather(
        *(admitted(store, epochs[at % 2]) for at in range(8)), return_exceptions=True
    )
    admissions = [answer for answer in answers if isinstance(answer, Admission)]
    assert [admission.holds for admission in admissions] == [True], "all others are refused, none is queued"
    for answer in answers:
        assert isinstance(answer, (Admission, ConflictError)), answer
    assert [row.run_id for row in await store.runs(thread_id="t")] == [admissions[0].run_id]


async def of_concurrent_claims_one_takes_the_thread(case: StoreCase) -> None:
    store, epochs = case.store, await case.workers()
    own = await running(store, epochs[0])
    queued = [await waiting(store, epochs[at % 2]) for at in range(4)]
    await store.finish(own, SUCCESS)
    claims = await asyncio.gather(*(store.claim("t", epoch=epoch) for epoch in epochs * 5))
    assert set(claims) - {None} == {Claimed(queued[0], 2)}
    assert [row.run_id for row in await store.runs(thread_id="t") if row.holds_thread] == queued[:1]


async def thread_is_not_claimed_before_its_holder_settles(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await waiting(store, me)
    assert await store.claim("t", epoch=me) is None
    await cancel(store, own.run_id)
    assert await store.claim("t", epoch=me) is None, "decided is not stopped"


async def runs_take_the_thread_in_the_order_of_admission(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    queue = [await waiting(store, me) for _ in range(3)]
    for number, run_id in enumerate(queue):
        finish = await store.finish(own, SUCCESS)
        assert finish.next_home == me
        assert await store.claim("t", epoch=me) == Claimed(run_id, number + 2)
        own = Ownership(run_id, "t", me, number + 2)
        assert await store.start(own, None) is not None
    assert (await store.finish(own, SUCCESS)).next_home is None


async def claim_is_repeatable_until_the_run_starts(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await running(store, me)
    run_id = await waiting(store, me)
    await store.finish(own, SUCCESS)
    claimed = await store.claim("t", epoch=me)
    assert claimed == await store.claim("t", epoch=me) == Claimed(run_id, 2)
    assert await store.claim("t", epoch=peer) is None
    await store.start(Ownership(run_id, "t", me, 2), None)
    assert await store.claim("t", epoch=me) is None


async def cancelled_waiting_run_leaves_the_queue(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    first, second = await waiting(store, me), await waiting(store, me)
    assert (await decided(store, first)).settled
    assert await store.waiting_line("t") == [second]
    await store.finish(own, SUCCESS)
    assert await store.claim("t", epoch=me) == Claimed(second, 2)


async def key_returns_the_run_that_it_admitted(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    run = new_run(user_id="u", idempotency_key="k", request_hash="h")
    first = await store.admit(run, epoch=me, limits=NONE)
    again = await store.admit(run._replace(run_id="other"), epoch=peer, limits=NONE)
    assert (again.run_id, again.existing is not None) == (first.run_id, True)
    assert await store.row("other") is None


async def of_concurrent_admissions_with_a_key_one_run_is_created(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    runs = [new_run(user_id="u", idempotency_key="k", request_hash="h") for _ in range(10)]
    answers = await asyncio.gather(*(store.admit(run, epoch=me, limits=NONE) for run in runs))
    assert len({answer.run_id for answer in answers}) == len(await store.runs(thread_id="t")) == 1


async def key_of_another_request_conflicts(case: StoreCase, changed: str) -> None:
    store, (me, _) = case.store, await case.workers()
    fields: dict[str, Field] = {"user_id": "u", "request_hash": "h", "idempotency_key": "k"}
    await store.admit(new_run(**fields), epoch=me, limits=NONE)
    fields[changed] = None if changed == "user_id" else "other"
    with refused(IdempotencyConflict):
        await store.admit(new_run(**fields), epoch=me, limits=NONE)


async def key_of_another_user_is_another_key(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await holding(store, me, "a", user_id="alice", idempotency_key="k")
    await holding(store, me, "b", user_id="bob", idempotency_key="k")


async def thread_belongs_to_the_first_user_admitted_on_it(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await store.put("import", thread_id="t", user_id="imported", status="success")
    own = await holding(store, me, user_id="alice")
    for strategy in STRATEGIES:
        with refused(ThreadNotFound):
            await admitted(store, me, user_id="bob", multitask_strategy=strategy)
    assert (await row_of(store, own.run_id)).open
    assert (await admitted(store, me, multitask_strategy="enqueue")).seq, "the system may"
    assert (await thread_of(store)).user_id == "alice"


async def thread_of_another_user_is_not_found(case: StoreCase) -> None:
    """Neither a conflict, a full queue nor an idempotency key shows that the thread exists."""
    store, (me, _) = case.store, await case.workers()
    await holding(store, me, user_id="alice", idempotency_key="k")
    with refused(ThreadNotFound):
        await admitted(store, me, user_id="bob", idempotency_key="k")
    with refused(ThreadNotFound):
        await store.admit(
            new_run(user_id="bob", multitask_strategy="enqueue"), epoch=me, limits=Limits(per_thread=0)
        )


async def run_id_of_another_user_conflicts_and_names_no_run(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await holding(store, me, "theirs", user_id="alice")
    with refused(ConflictError) as errors:
        await admitted(store, me, "mine", user_id="bob", run_id=own.run_id)
    assert errors[0].active_run_id is None


async def withdrawal_frees_what_its_caller_left(case: StoreCase, what: str) -> None:
    """It is repeatable, and ends what was cancelled before as it was cancelled."""
    store, (me, _) = case.store, await case.workers()
    own = await (running if what == "a started run" else holding)(store, me)
    waits = what in ("a waiting run", "a cancelled waiting run")
    run_id = await waiting(store, me) if waits else own.run_id
    if "cancelled" in what:
        await cancel(store, run_id, reason="by a peer")
    for _ in range(2):
        decision = await store.withdraw(run_id, epoch=me)
        assert decision is not None
        assert (decision.status, decision.settled) == (RunStatus.interrupted, True)
        assert "cancelled" not in what or decision.reason == "by a peer"
    assert (await row_of(store, run_id)).settled
    assert await store.holder("t") == (own.run_id if waits else None)


async def withdrawal_ends_no_run_of_another_worker(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    own = await holding(store, me)
    await store.withdraw(own.run_id, epoch=peer)
    assert (await row_of(store, own.run_id)).open
    assert await store.withdraw("unknown", epoch=me) is None


async def dead_or_unknown_epoch_admits_nothing(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    await declared_dead(store, peer, by=me)
    for epoch in (peer, 999):
        with refused(EpochDead):
            await admitted(store, epoch)
        with refused(EpochDead):
            await store.insert(new_run(), epoch=epoch)
    assert await store.thread("t") is None


_STRATEGIES = "a run is admitted by its strategy"
_HOLDER = "one run holds a thread"
_QUEUE = "runs take their thread in the order of admission"
_KEYS = "an idempotency key admits one run"
_USERS = "a user reaches no thread or run of another user"
_WITHDRAWALS = "an admission that is withdrawn ends, and frees its thread"

ADMISSION: tuple[Check[StoreCase], ...] = (
    *checks_for(
        STRATEGIES, idle_thread_is_taken_with_a_new_fence, admission_is_repeatable, promise=_STRATEGIES
    ),
    *checks_for(
        ("interrupt", "rollback"), runs_in_flight_are_decided_and_the_new_run_waits, promise=_STRATEGIES
    ),
    *checks_of(
        reject_names_the_holder_and_changes_nothing,
        reject_conflicts_with_a_run_that_is_stopping,
        enqueue_joins_the_queue_also_where_no_run_holds_the_thread,
        interrupt_takes_the_thread_where_all_runs_wait,
        refused_admission_changes_no_run,
        first_action_over_a_run_stays,
        of_concurrent_rejects_one_is_admitted,
        promise=_STRATEGIES,
    ),
    *checks_of(
        of_concurrent_admissions_one_holds,
        of_concurrent_claims_one_takes_the_thread,
        thread_is_not_claimed_before_its_holder_settles,
        promise=_HOLDER,
    ),
    *checks_of(
        runs_take_the_thread_in_the_order_of_admission,
        claim_is_repeatable_until_the_run_starts,
        cancelled_waiting_run_leaves_the_queue,
        promise=_QUEUE,
    ),
    *checks_of(
        key_returns_the_run_that_it_admitted,
        of_concurrent_admissions_with_a_key_one_run_is_created,
        key_of_another_user_is_another_key,
        promise=_KEYS,
    ),
    *checks_for(("request_hash", "thread_id", "user_id"), key_of_another_request_conflicts, promise=_KEYS),
    *checks_of(
        thread_belongs_to_the_first_user_admitted_on_it,
        thread_of_another_user_is_not_found,
        run_id_of_another_user_conflicts_and_names_no_run,
        promise=_USERS,
    ),
    *checks_for(
        ("a run that holds", "a started run", "a waiting run", "a cancelled run", "a cancelled waiting run"),
        withdrawal_frees_what_its_caller_left,
        promise=_WITHDRAWALS,
    ),
    *checks_of(withdrawal_ends_no_run_of_another_worker, promise=_WITHDRAWALS),
    *checks_of(dead_or_unknown_epoch_admits_nothing, promise="a dead worker writes nothing"),
)
