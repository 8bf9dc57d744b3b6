"""How a thread becomes free.

A run settles when its task has stopped and all that it tracked is over: close, finish (or undo and
settle), free the slot, hand the thread to the head of the waiting line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from coordinator.assistants.undo import Undo
from coordinator.clock import Stamps
from coordinator.errors import (
    CoordinatorError,
    LeaseLost,
    StaleFence,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
)
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.runs.children import hint_at_children
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs, through
from coordinator.runs.kept import Result
from coordinator.runs.outcomes import fallback, refused, row_of, stack_of, text_of, with_times, without_room
from coordinator.runs.refusals import FORESEEN, Refusals
from coordinator.runs.registry import Registry
from coordinator.runs.waiting_line import WaitingLine
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunForced, RunLost, RunSettled
from stores.base import DecisionStore, OwnershipStore, ReadStore, RecordStore
from stores.outbox import Outbox
from stores.rows import Claimed, Finish, Outcome, Ownership
from stores.states import OPEN

logger = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN = 0.2  # s; between two attempts of a rollback, during which the thread is held


class SettlementStore(OwnershipStore, DecisionStore, RecordStore, ReadStore, Protocol):
    """What settling needs of the store."""


class Settlement:
    def __init__(
        self,
        store: SettlementStore,
        registry: Registry,
        *,
        line: WaitingLine,
        slots: SlotLock,
        notifier: Notifier,
        worker: Incarnation,
        undo: Undo,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        stamps: Stamps,
        force_after: float,
    ) -> None:
        self._store, self._registry, self._slots, self._notifier = store, registry, slots, notifier
        self._worker, self._undoing, self._jobs, self._outbox = worker, undo, jobs, outbox
        self._telemetry, self._stamps, self._force_after = telemetry, stamps, force_after
        self._line = line
        self.forced = 0
        """How many runs of this worker were settled by force."""
        self.refusals = Refusals()

    # -- the end of a task

    def supervise(self, entry: Entry) -> None:
        """Settle a decided run when the task that its caller attached is over. Idempotent."""
        task = entry.record.task
        if task is not None and entry.supervised is not task:
            entry.supervised = task
            task.add_done_callback(lambda _: self._task_over(entry))
            self._registry.settling.supervise(entry.record.thread_id, task)

    def _task_over(self, entry: Entry) -> None:
        if not entry.open:  # an undecided run of a caller's own task is the caller's to decide
            self.conclude_soon(entry, None)

    def arm_force(self, entry: Entry) -> None:
        """A task, or what it tracked, gets `force_after` seconds to stop."""
        if entry.force_timer is None and not entry.forced and not entry.settled.is_set():
            loop = asyncio.get_running_loop()
            entry.force = entry.force or loop.create_future()
            entry.force_timer = loop.call_later(self._force_after, self._force, entry)

    def wind_up(self, entry: Entry) -> asyncio.Future[None] | None:
        """Settle a run that was decided, or lost, as soon as it has stopped; by force if it does not.
        A run that has nothing to stop is settled when the answer is done; None = it has to stop first."""
        if entry.stopped or (entry.own is None and not entry.lost):
            return self.conclude_soon(entry, None)
        self.supervise(entry)
        self.arm_force(entry)
        if not entry.record.task_active:
            self.conclude_soon(entry, None)  # waits for what the task tracked
        return None

    async def conclude(self, entry: Entry, outcome: Outcome | None) -> None:
        """Settle now and return when the rows are written, also if the caller is cancelled meanwhile; or,
        while the store is away, when they are owed. `outcome` decides; None = decided already. The first
        call wins."""
        if entry.settling is not None or entry.tracked:
            await through(self.conclude_soon(entry, outcome))
            return
        # Here and not in a job of its own, which would cost every run 15 us. What a cancelled caller
        # leaves half done is done again, from the start: every write is re-runnable.
        entry.outcome = entry.outcome or outcome
        entry.settling = here = asyncio.get_running_loop().create_future()
        entry.inline = True
        try:
            await self._conclude(entry)
        except (asyncio.CancelledError, StoreUnavailable) as error:
            entry.settling, entry.inline = None, False
            again = self.conclude_soon(entry, outcome)
            again.add_done_callback(lambda _: here.done() or here.set_result(None))
            if isinstance(error, StoreUnavailable):
                return
            await through(again)
            raise
        finally:
            if entry.settling is here:
                entry.inline = False
                here.set_result(None)

    def conclude_soon(self, entry: Entry, outcome: Outcome | None) -> asyncio.Future[None]:
        entry.outcome = entry.outcome or outcome
        if entry.settling is None or (entry.settling.done() and not entry.settled.is_set()):
            entry.settling = self._jobs.spawn(self._conclude(entry), f"settling run {entry.record.run_id!r}")
            if not entry.tracked:
                self._registry.settling.add(entry.record.thread_id, entry.settling)
        return entry.settling

    async def _conclude(self, entry: Entry) -> None:
        while entry.tracked and not entry.forced:
            self.arm_force(entry)
            force = () if entry.force is None else (entry.force,)
            await asyncio.wait((*entry.tracked, *force), return_when=asyncio.FIRST_COMPLETED)
        self._close(entry)
        if entry.settled.is_set():
            return
        try:
            try:
                await self._end(entry)
            except FORESEEN:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the store refuses it for
                await self.refusals.overcome(entry, self._end, error)
        except (LeaseLost, StaleFence, StoreReplaced) as error:
            self.lose(entry, str(error))
        finally:
            if self.refusals and not entry.inline:
                self.refusals.forget(entry)
        if entry.lost:
            self._let_go(entry)
        if not (entry.inline or entry.record.task_active):
            entry.settling = None  # this job, which is not to live as long as the record

    def _close(self, entry: Entry) -> None:
        """From here on no write of the run's fence is accepted from this process."""
        if entry.stopped:
            entry.stopped_at = entry.stopped_at or entry.clocks.wall()
        entry.closed = True
        if entry.context is not None:
            entry.context.close()
        if entry.states is not None and entry.own is not None:
            entry.states.close(entry.record.thread_id, entry.own.fence)

    async def _end(self, entry: Entry) -> None:
        """Write how it ended and free the thread. Raises LeaseLost, StaleFence."""
        if entry.lost:
            return
        if entry.own is None and entry.open:
            await self._leave_line(entry)
        if entry.own is None:  # it never held the thread: its decision settled it, or another worker does
            self.settled(entry, entry.record.status, entry.record.error)
            return
        if entry.forced:
            await self._refence(entry)
        if entry.trying_again:  # begun anew while that was asked for: it may have a newer fence
            await self._try_again(entry)
        await self._write_unwritten(entry)
        finish, end = await self._finish(entry)
        if finish.decision is not None:
            hint_at_children(self._notifier, finish.decision.children)
        if finish.undo:
            finish = await self._undo(entry, end)
        elif finish.lost and finish.decision is None:
            finish = await self._recreate(entry, end)
        if finish.lost:
            raise StaleFence(entry.record.thread_id, _own(entry).fence)
        status = finish.status or end.status
        entry.result = Result(end.result if status is end.status else None, paused=end.paused)
        error = finish.decision.error if finish.decision is not None else end.error
        self.settled(entry, status, error)
        await self._line.pass_on(entry.record.thread_id, finish.next_home)
        await self._forget(entry)

    async def _leave_line(self, entry: Entry) -> None:
        """Its task was over before its turn came. It may have been given the thread just now; or it was
        handed over, and has its turn on another worker."""
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
        if decision is None:
            return
        hint_at_children(self._notifier, decision.children)
        if decision.elsewhere(epoch):
            self.hand_over(entry)
        elif decision.owner_epoch == epoch and not decision.settled:
            entry.take_thread(Claimed(record.run_id, decision.fence), epoch)
            if end.status is RunStatus.interrupted:
                entry.unwritten = entry.unwritten or end
        if decision.status not in OPEN:
            record.status, record.error = decision.status, decision.error

    async def _refence(self, entry: Entry) -> None:
        """The task did not stop: make its fence stale in the store before the thread is free."""
        own = _own(entry)
        if not own.fence:  # beside the slot: it holds nothing
            return
        refenced = await self._persist(entry, lambda: self._store.refence(own))
        if refenced is None:
            raise StaleFence(own.thread_id, own.fence)
        entry.own = refenced

    async def _write_unwritten(self, entry: Entry) -> None:
        """The store was away when the run was cancelled here, or the run was told to stop and did: now that
        is decided."""
        if (abort := entry.unwritten) is None:
            return
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
            hint_at_children(self._notifier, decision.children)

    async def _finish(self, entry: Entry) -> tuple[Finish, Outcome]:
        """What the store answered, and what it was told."""
        own, end = _own(entry), with_times(entry.outcome or fallback(entry), entry)
        # Not closures: of those, an end that waits for its commit would keep a dozen small objects.
        write, instead = partial(self._write_end, own, end), partial(self._without_result, entry, own, end)
        try:
            answer = await self._persist(entry, write, instead=instead)
            return (answer, end) if isinstance(answer, Finish) else answer
        except CoordinatorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the engine or its driver says of these values
            harmless = with_times(refused(end, error), entry)
            logger.warning("The end of run %r was refused: %s", own.run_id, harmless.error)
        entry.outcome = harmless
        return await self._persist(entry, partial(self._write_end, own, harmless)), harmless

    def _write_end(self, own: Ownership, end: Outcome) -> Awaitable[Finish]:
        return self._store.finish(own, end)

    async def _without_result(
        self, entry: Entry, own: Ownership, end: Outcome, error: StoreFull
    ) -> tuple[Finish, Outcome]:
        less = with_times(without_room(end, error), entry)
        return await self._store.finish(own, less), less

    async def _undo(self, entry: Entry, end: Outcome) -> Finish:
        """A rollback was decided: put the thread back, then settle. The attempts that fail are counted in
        the row, with a new fence for the next: whoever goes on with it, there are so many in all."""
        ref = entry.rollback_ref
        while True:
            own = _own(entry)
            state, error, values = "done", None, None
            try:
                values = await self._persist(entry, partial(self._undoing.restore, own, ref, entry.states))
            except CoordinatorError:
                raise
            except Exception as failure:
                logger.exception("Rolling back run %r failed", own.run_id)
                if await self._try_again(entry):
                    await asyncio.sleep(AGAIN)
                    continue
                state, error = "failed", f"Rollback failed: {text_of(failure)}"
            settled = with_times(Outcome(end.status, error, values=values), entry)
            return await self._persist(entry, partial(self._store.settle, own, settled, state))

    async def _try_again(self, entry: Entry) -> bool:
        """Another attempt of the rollback, with a fence of its own; False = there have been enough."""
        entry.trying_again = True
        again = await self._persist(entry, partial(self._store.readopt, _own(entry)))
        entry.trying_again = False
        entry.own = again or entry.own
        return again is not None

    async def _recreate(self, entry: Entry, end: Outcome) -> Finish:
        """The row has vanished (and nobody took the thread): write it anew, once. A decision that came
        before the task's own end stays, although no row says so any more. Where its thread is gone as well,
        it had settled, and was removed before its owner heard of it."""
        record = entry.record
        status, error = (end.status, end.error) if entry.open else (record.status, record.error)
        if await self._persist(entry, lambda: self._store.thread(record.thread_id)) is None:
            return Finish(status)
        row = row_of(record, status, error)
        await self._persist(entry, lambda: self._store.put(record.run_id, **row))
        logger.warning("The row of run %r had vanished and was written anew", record.run_id)
        return Finish(status)

    async def _forget(self, entry: Entry) -> None:
        """Settled for good: what the thread's state kept to undo the run may go."""
        if entry.states is None:
            return
        try:
            await self._undoing.forget(entry.record.run_id, entry.states)
        except Exception:
            logger.warning("Undo data of run %r was left behind", entry.record.run_id, exc_info=True)

    def _persist(
        self,
        entry: Entry,
        write: Callable[[], Awaitable[T]],
        *,
        instead: Callable[[StoreFull], Awaitable[T]] | None = None,
    ) -> Awaitable[T]:
        """A write of the owner; while the store is away it waits in the outbox, never past the lease."""
        epoch = self._worker.epoch if entry.own is None else entry.own.epoch
        return self._outbox.deliver(
            entry.record.run_id, epoch, "the end of a run", write, patient=not entry.inline, instead=instead
        )

    def settled(self, entry: Entry, status: RunStatus, error: str | None) -> None:
        """The thread is free of this run: tell everybody who waits for it."""
        record, own = entry.record, entry.own
        if entry.settled.is_set():
            return
        entry.settle(status, error, self._stamps.now())
        self._registry.finished(entry)
        if own is not None and own.fence:
            self._slots.release(record.thread_id, record.run_id, fence=own.fence)
        else:
            self._notifier.notify_thread(
                record.thread_id, Signal(kind="settled", thread_id=record.thread_id, run_id=record.run_id)
            )
        if not entry.operation:
            self._telemetry.emit(RunSettled(record.run_id, record.thread_id, status.value, error))

    # -- when it goes wrong

    def lose(self, entry: Entry, why: str) -> None:
        """Ownership is gone: stop the task, write nothing more. The run counts as settled here when it
        has stopped; elsewhere the thread may be taken at once, for its fence is stale."""
        if entry.lost or entry.settled.is_set():
            return
        entry.lost = True
        self._close(entry)
        if entry.abort is None:
            abort = Abort(RunStatus.error, CancelAction.interrupt, Cause.lease_lost, why)
            entry.stop(abort, self._stamps.now(), why if entry.open else None)
        self._telemetry.emit(RunLost(entry.record.run_id, entry.record.thread_id, why))
        self.wind_up(entry)

    def hand_over(self, entry: Entry) -> None:
        """While it waited its home has let go of it: another worker executes it. Its row is left alone,
        and whoever waits for it here waits for that."""
        if entry.lost or entry.settled.is_set():
            return
        entry.lost = entry.handed_over = True
        self._registry.drop(entry.record.run_id)
        entry.warn(Abort(entry.record.status, CancelAction.interrupt, Cause.shutdown, "handed over"))
        entry.settle(entry.record.status, None, self._stamps.now())

    def force(self, entry: Entry) -> None:
        """Do not wait any longer for what was told to stop."""
        if entry.force_timer is not None:
            entry.force_timer.cancel()
        if not entry.forced:
            self._force(entry)

    def abandon(self, entry: Entry, why: str) -> None:
        """The worker has left: nobody waits any longer for what did not stop."""
        self.lose(entry, why)
        self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        entry.settle(entry.record.status, entry.record.error, self._stamps.now())
        self._registry.finished(entry)

    def _force(self, entry: Entry) -> None:
        """The time to stop is over: close it, fence it, free its thread. It is cancelled no more."""
        entry.force_timer, record = None, entry.record
        if entry.stopped or entry.settled.is_set():
            return
        entry.forced = True
        entry.cancel_no_more()
        self.forced += 1
        stack = stack_of(entry)
        self._telemetry.emit(RunForced(record.run_id, record.thread_id, self._force_after, stack))
        if entry.force is not None and not entry.force.done():
            entry.force.set_result(None)
        self.conclude_soon(entry, None)


def _own(entry: Entry) -> Ownership:
    if entry.own is None:
        raise AssertionError("a waiting run writes nothing")
    return entry.own
