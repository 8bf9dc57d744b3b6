"""The writes of an owner when its run ends: a pending decision, the outcome, or the rollback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from coordinator.assistants.left import LeftStates
from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.undo import Undo
from coordinator.errors import CoordinatorError, LeaseLost, StaleFence, StoreFull
from coordinator.notifier import Notifier
from coordinator.runs.children import hint_at_children
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.kept import Result
from coordinator.runs.outcomes import (
    fallback,
    is_harmless,
    refused,
    row_of,
    text_of,
    with_facts,
    without_room,
)
from coordinator.runs.states import Hold
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.telemetry import Telemetry
from stores.base import DecisionStore, OwnershipStore, ReadStore, RecordStore
from stores.outbox import Outbox
from stores.rows import Claimed, Decision, Finish, NextStart, Outcome, Ownership

logger = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN = 0.2  # s between two attempts of a rollback; the thread is held meanwhile


class EndingStore(OwnershipStore, DecisionStore, RecordStore, ReadStore, Protocol):
    """Store operations that end a run."""


class EndOfLog(Protocol):
    """The writer of events."""

    def log_end(self, own: Ownership, attempt: int) -> int | None: ...


class Written(NamedTuple):
    """The row of a run as written. `next_home`, `claimed`: see `Finish`."""

    status: RunStatus
    error: str | None
    result: Result
    next_home: int | None
    claimed: Claimed | None


class Endings:
    """Every write is idempotent: an incomplete one is repeated from the start. While the store is
    unavailable a write is queued in the outbox, never past the lease; for a run that a caller settles in its
    own steps StoreUnavailable is raised instead. Nothing is written for a lost run: LeaseLost is raised."""

    def __init__(
        self,
        store: EndingStore,
        *,
        worker: Incarnation,
        undo: Undo,
        left: LeftStates,
        events: EndOfLog,
        outbox: Outbox,
        notifier: Notifier,
        telemetry: Telemetry,
        next_start: Callable[[str], NextStart | None],
    ) -> None:
        """`next_start` returns the run that may start in the transaction that frees its thread."""
        self._store, self._worker, self._undoing, self._left = store, worker, undo, left
        self._events = events
        self._outbox, self._notifier, self._telemetry = outbox, notifier, telemetry
        self._next_start = next_start

    async def leave_queue(self, entry: Entry) -> tuple[Decision | None, Abort]:
        """Ends a queued run whose task has ended. Returns the decision in its row and the abort that was
        requested. According to the row, the run may hold its thread, or have held it on another worker."""
        record, epoch, outcome = entry.record, self._worker.epoch, entry.outcome or fallback(entry)
        cause = Cause.shutdown if self._worker.drain_event.is_set() else Cause.disconnect
        end = Abort(outcome.status, CancelAction.interrupt, cause, "its task ended before its turn")
        decision = await self._persist(
            entry,
            lambda: self._store.decide(
                record.run_id,
                end.status,
                action=end.action,
                cause=end.cause,
                reason=end.reason,
                error=outcome.error,
                while_waiting=True,
                home=epoch,
            ),
        )
        if decision is not None:
            hint_at_children(self._notifier, self._telemetry, decision.children)
        return decision, end

    async def write(self, entry: Entry, hold: Hold) -> Written:
        """Writes the end of a run that has held its thread, and frees the thread. Raises LeaseLost,
        StaleFence, StoreReplaced, StoreUnavailable, and any error with which the store refuses the end."""
        if entry.work.forced:
            await self._refence(entry, hold)
        if hold.retrying:  # repeated while `readopt` was in flight: it may have a newer fence
            await self._try_again(entry, hold)
        if (abort := entry.unwritten) is not None:
            await self._write_unwritten(entry, abort)
        finish, end = await self._finish(entry, hold)
        if finish.decision is not None:
            hint_at_children(self._notifier, self._telemetry, finish.decision.children)
        if finish.undo:
            finish = await self._undo(entry, hold, end)
        elif finish.lost and finish.decision is None:
            finish = await self._recreate(entry, end)
        if finish.lost:
            raise StaleFence(hold.own.thread_id, hold.own.fence)
        status = finish.status or end.status
        error = finish.decision.error if finish.decision is not None else end.error
        result = Result(end.result if status is end.status else None, paused=end.paused)
        return Written(status, error, result, finish.next_home, finish.claimed)

    async def _refence(self, entry: Entry, hold: Hold) -> None:
        """Makes the fence of a task that did not stop stale in the store, before the thread is freed."""
        own = hold.own
        if not own.fence:  # beside the slot: it holds nothing
            return
        refenced = await self._persist(entry, lambda: self._store.refence(own))
        if refenced is None:
            raise StaleFence(own.thread_id, own.fence)
        hold.own = refenced

    async def _write_unwritten(self, entry: Entry, abort: Abort) -> None:
        """Writes a decision that the store has not accepted yet: the store was unavailable when the run was
        cancelled, or the run stopped because of a warning."""
        decision = await self._persist(
            entry,
            lambda: self._store.decide(
                entry.record.run_id,
                abort.status,
                action=abort.action,
                cause=abort.cause,
                reason=abort.reason,
                actor=abort.actor,
                error=abort.reason if abort.status is RunStatus.timeout else None,
            ),
        )
        if decision is not None:
            hint_at_children(self._notifier, self._telemetry, decision.children)

    async def _finish(self, entry: Entry, hold: Hold) -> tuple[Finish, Outcome]:
        """Writes the outcome. Returns the store's response and the outcome as written."""
        own = hold.own
        left = await self._with_left_state(entry, hold, entry.outcome or fallback(entry))
        end = self._with_facts(left, entry, own)
        # Not closures: they would keep a dozen small objects for every end that waits for its commit.
        following = self._next_start(own.thread_id) if own.fence else None  # 0: it holds nothing
        write = partial(self._write_end, own, end, following)
        instead = partial(self._without_result, entry, own, end)
        try:
            answer = await self._persist(entry, write, instead=instead)
            return (answer, end) if isinstance(answer, Finish) else answer
        except CoordinatorError:
            raise
        except Exception as error:
            if is_harmless(end):  # it is not this end that the store refuses
                raise
            harmless = self._with_facts(refused(end, error), entry, own)
            logger.warning("The end of run %r was refused: %s", own.run_id, harmless.error)
        entry.replace_outcome(harmless)
        return await self._persist(entry, partial(self._write_end, own, harmless, None)), harmless

    def _with_facts(self, outcome: Outcome, entry: Entry, own: Ownership) -> Outcome:
        return with_facts(outcome, entry, self._events.log_end(own, entry.attempt))

    async def _with_left_state(self, entry: Entry, hold: Hold, end: Outcome) -> Outcome:
        """Returns the outcome of a run that has not succeeded with the state that it has left, if its
        assistant keeps that itself: the outcome has none. The task has stopped, and further writes are
        refused."""
        assistant, abort = hold.assistant, entry.abort
        if assistant is None or not hold.own.fence or not self._left.kept_by(assistant):
            return end
        if abort is not None and abort.action is CancelAction.rollback:
            return end
        status = end.status if abort is None else abort.status
        user = None if hold.context is None else hold.context.user
        if status is RunStatus.success or entry.elsewhere:
            return end
        left = await self._left.read(assistant, hold.own.thread_id, user)
        if left is None:
            return end
        error = end.error if end.status is status else None
        return Outcome(status, error, values=left.values, interrupts=left.interrupts)

    def _write_end(self, own: Ownership, end: Outcome, following: NextStart | None) -> Awaitable[Finish]:
        return self._store.finish(own, end, following=following)

    async def _without_result(
        self, entry: Entry, own: Ownership, end: Outcome, error: StoreFull
    ) -> tuple[Finish, Outcome]:
        less = self._with_facts(without_room(end, error), entry, own)
        return await self._store.finish(own, less), less

    async def _undo(self, entry: Entry, hold: Hold, end: Outcome) -> Finish:
        """Restores the thread after a rollback was decided, then settles. Failed attempts are counted in the
        row, each with a new fence for the next, so that the limit holds across workers."""
        ref = hold.rollback_ref
        while True:
            own = hold.own
            state, error, values = "done", None, None
            try:
                values = await self._persist(entry, partial(self._undoing.restore, own, ref, hold.states))
            except CoordinatorError:
                raise
            except Exception as failure:
                logger.exception("The rollback of run %r failed", own.run_id)
                if await self._try_again(entry, hold):
                    await asyncio.sleep(AGAIN)
                    continue
                state, error = "failed", f"Rollback failed: {text_of(failure)}"
            settled = self._with_facts(Outcome(end.status, error, values=values), entry, own)
            return await self._persist(entry, partial(self._store.settle, own, settled, state))

    async def _try_again(self, entry: Entry, hold: Hold) -> bool:
        """Gets a new fence for another attempt of the rollback. Returns False if the attempts are used up."""
        hold.retrying = True
        again = await self._persist(entry, partial(self._store.readopt, hold.own))
        hold.retrying = False
        hold.own = again or hold.own
        return again is not None

    async def _recreate(self, entry: Entry, end: Outcome) -> Finish:
        """Recreates a row that is missing although no other run took the thread. A decision that preceded the
        task's own end is kept. If the thread is missing as well, the run had settled and was removed before
        its owner was notified: nothing is written."""
        record = entry.record
        status, error = (end.status, end.error) if entry.open else (record.status, record.error)
        if await self._persist(entry, lambda: self._store.thread(record.thread_id)) is None:
            return Finish(status)
        row = row_of(record, status, error)
        await self._persist(entry, lambda: self._store.put(record.run_id, **row))
        logger.warning("The row of run %r was missing and was recreated", record.run_id)
        return Finish(status)

    async def forget(self, run_id: str, states: ThreadStates) -> None:
        """Removes the data that the thread's state kept for a rollback of the run. Best effort."""
        await self._undoing.forget(run_id, None, states)

    def _persist(
        self,
        entry: Entry,
        write: Callable[[], Awaitable[T]],
        *,
        instead: Callable[[StoreFull], Awaitable[T]] | None = None,
    ) -> Awaitable[T]:
        own = entry.own
        epoch = self._worker.epoch if own is None else own.epoch
        if entry.elsewhere:
            raise LeaseLost(epoch)
        return self._outbox.deliver(
            entry.record.run_id,
            epoch,
            "the end of a run",
            write,
            patient=entry.settled_by_job,
            instead=instead,
        )
