"""Settles runs: ends them and frees their threads.

A run settles when its task and all work that it tracked have stopped: close, finish (or roll back and
settle), free the slot, dispatch the next run of the queue.
"""

from __future__ import annotations

import asyncio
from functools import partial

from coordinator.assistants.left import LeftStates
from coordinator.assistants.undo import Undo
from coordinator.clock import Stamps
from coordinator.errors import LeaseLost, StaleFence, StoreReplaced, StoreUnavailable
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier, Signal
from coordinator.runs.endings import Endings, EndingStore, EndOfLog
from coordinator.runs.entry import NO_RESULT, Entry
from coordinator.runs.hand_over import HandOvers
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs, through
from coordinator.runs.kept import Result
from coordinator.runs.outcomes import stack_of
from coordinator.runs.overdue import Overdue
from coordinator.runs.refusals import FORESEEN, Refusals
from coordinator.runs.registry import Registry
from coordinator.runs.states import Lost
from coordinator.runs.thread_queue import ThreadQueue
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunForced, RunLost, RunSettled
from stores.outbox import Outbox
from stores.rows import Claimed, Outcome, Ownership
from stores.states import OPEN


class Settlement:
    def __init__(
        self,
        store: EndingStore,
        registry: Registry,
        *,
        queue: ThreadQueue,
        slots: SlotLock,
        notifier: Notifier,
        worker: Incarnation,
        undo: Undo,
        left: LeftStates,
        events: EndOfLog,
        jobs: Jobs,
        outbox: Outbox,
        telemetry: Telemetry,
        stamps: Stamps,
        hand_overs: HandOvers,
        force_after: float,
    ) -> None:
        self._endings = Endings(
            store,
            worker=worker,
            undo=undo,
            left=left,
            events=events,
            outbox=outbox,
            notifier=notifier,
            telemetry=telemetry,
            next_start=registry.next_start,
        )
        self._hand_overs = hand_overs
        self._registry, self._slots, self._notifier = registry, slots, notifier
        self._worker, self._jobs, self._queue = worker, jobs, queue
        self._telemetry, self._stamps, self._force_after = telemetry, stamps, force_after
        self.forced = 0
        """The number of runs of this worker that were settled by force."""
        self.overdue = Overdue(telemetry)
        self.refusals = Refusals()
        """Ends that the store refuses."""

    # -- the end of a task

    def supervise(self, entry: Entry) -> None:
        """Settles a decided run when the task that its caller attached has ended. Idempotent."""
        task, work = entry.record.task, entry.work
        if task is not None and work.supervised is not task:
            work.supervised = task
            task.add_done_callback(lambda _: self._task_over(entry))
            self._registry.settling.supervise(entry.record.thread_id, task)

    def _task_over(self, entry: Entry) -> None:
        if not entry.open:  # else the caller that made the task decides over the run
            self.conclude_soon(entry, None)

    def arm_force(self, entry: Entry) -> None:
        """Settles the run by force if its task and tracked work do not stop within `force_after` (s)."""
        if not entry.settled.is_set():
            entry.work.arm(self._force_after, partial(self._force, entry))

    def wind_up(self, entry: Entry) -> asyncio.Future[None] | None:
        """Settles a run that was decided or lost as soon as it has stopped; by force if it does not. Returns
        a future that is done when the run has settled, or None if its task has to stop first."""
        if entry.stopped or entry.queued:
            return self.conclude_soon(entry, None)
        self.supervise(entry)
        self.arm_force(entry)
        if not entry.record.task_active:
            self.conclude_soon(entry, None)  # the settling job waits for the tracked work
        return None

    async def conclude(self, entry: Entry, outcome: Outcome | None) -> None:
        """Settles the run now. Returns when the rows are written, even if the caller is cancelled meanwhile;
        if the store is unavailable, when the writes are queued. `outcome`: the decision; None = decided
        before. The first call wins."""
        if entry.settling is not None or entry.work.tracked:
            await through(self.conclude_soon(entry, outcome))
            return
        # The first attempt runs in the steps of the caller, which saves a task for most runs. If the caller
        # is cancelled or the store is unavailable, a job repeats it.
        entry.report(outcome)
        entry.settling = inline = asyncio.get_running_loop().create_future()
        try:
            await self._conclude(entry)
        except (asyncio.CancelledError, StoreUnavailable) as error:
            entry.settling = None
            again = self.conclude_soon(entry, outcome)
            again.add_done_callback(lambda _: inline.done() or inline.set_result(None))
            if isinstance(error, StoreUnavailable):
                return
            await through(again)
            raise
        finally:
            if entry.settling is inline:
                inline.set_result(None)
                entry.settling = None

    def conclude_soon(self, entry: Entry, outcome: Outcome | None) -> asyncio.Future[None]:
        entry.report(outcome)
        if entry.settling is None or (entry.settling.done() and not entry.settled.is_set()):
            entry.settling = self._jobs.spawn(self._conclude(entry), f"settling run {entry.record.run_id!r}")
            if not entry.work.tracked:
                self._registry.settling.add(entry.record.thread_id, entry.settling)
        return entry.settling

    async def _conclude(self, entry: Entry) -> None:
        while entry.work.tracked and not entry.work.forced:
            self.arm_force(entry)
            await entry.work.tracked_over()
        entry.close()
        if entry.settled.is_set():
            return
        try:
            try:
                await self._end(entry)
            except FORESEEN:
                raise
            except Exception as error:  # noqa: BLE001 - any refusal of the store
                await self.refusals.overcome(entry, self._end, error)
        except (LeaseLost, StaleFence, StoreReplaced) as error:
            self.lose(entry, str(error))
        finally:
            if self.refusals and entry.settled_by_job:
                self.refusals.forget(entry)
        self._settle_lost(entry)
        if entry.settled_by_job and not entry.record.task_active:
            entry.settling = None  # this job, which must not live as long as the record

    async def _end(self, entry: Entry) -> None:
        """Writes the end and frees the thread. Raises LeaseLost, StaleFence."""
        if entry.queued and entry.open:
            await self._leave_queue(entry)
        if entry.elsewhere:
            return
        hold = entry.state.hold
        if hold is None:  # it never held the thread, so its decision settled it
            self.settled(entry, entry.record.status, entry.record.error)
            return
        if entry.hands_over and not entry.handed_over and await self._write_hand_over(entry, hold.own):
            return
        states, epoch = hold.states, hold.own.epoch
        written = await self._endings.write(entry, hold)
        self.settled(entry, written.status, written.error, written.result)
        thread_id = entry.record.thread_id
        if written.claimed is not None:
            await self._queue.taken(thread_id, written.claimed, epoch)
        else:
            await self._queue.dispatch_next(thread_id, written.next_home)
        if states is not None:
            await self._endings.forget(entry.record.run_id, states)

    async def _write_hand_over(self, entry: Entry, own: Ownership) -> bool:
        """Marks the run as handed over: this worker stays its owner until a peer continues it, and settles it
        if it is decided before. Returns False if it was decided already."""
        if entry.abort is not None or entry.unwritten is not None:
            return False
        standing = await self._hand_overs.write(entry, own)
        if standing is not None and standing.status not in OPEN:
            return False
        if standing is None:  # continued by a peer: the first answer was lost
            self.hand_over(entry)
        if entry.work.continuation is not None:
            entry.work.continuation.written = True
        entry.stop_timers()
        return True

    async def _leave_queue(self, entry: Entry) -> None:
        """Ends a queued run whose task has ended. If it was claimed a moment before, it holds its thread; if
        it was handed over, it belongs to another worker."""
        record, epoch = entry.record, self._worker.epoch
        decision, end = await self._endings.leave_queue(entry)
        if decision is None:
            return
        if decision.elsewhere(epoch):
            self.hand_over(entry)
        elif decision.owner_epoch == epoch and not decision.settled:
            entry.take_thread(Claimed(record.run_id, decision.fence), epoch)
            if end.status is RunStatus.interrupted and entry.unwritten is None:
                entry.set_unwritten(end)
        if decision.status not in OPEN:
            record.status, record.error = decision.status, decision.error

    def settled(self, entry: Entry, status: RunStatus, error: str | None, result: Result = NO_RESULT) -> None:
        """Marks the run as settled and notifies all waiters: its thread is free of it."""
        record, own = entry.record, entry.own
        if entry.settled.is_set():
            return
        entry.settle(status, error, self._stamps.now(), result)
        self._registry.finished(entry)
        if own is not None and own.fence:
            self._slots.release(record.thread_id, record.run_id, fence=own.fence)
        else:
            self._notifier.notify_thread(
                record.thread_id, Signal(kind="settled", thread_id=record.thread_id, run_id=record.run_id)
            )
        if not entry.operation:
            self._telemetry.emit(RunSettled(record.run_id, record.thread_id, status.value, error))

    # -- lost and forced runs

    def lose(self, entry: Entry, why: str) -> None:
        """Drops a run that this worker no longer owns: cancels its task, writes nothing more. The run counts
        as settled on this worker when it has stopped. Its fence is stale, so other workers may take the
        thread at once."""
        if entry.elsewhere or entry.settled.is_set():
            return
        if entry.handed_over:
            self.hand_over(entry)
            return
        entry.close()
        if entry.abort is None:
            abort = Abort(RunStatus.error, CancelAction.interrupt, Cause.lease_lost, why)
            entry.stop(abort, self._stamps.now(), why if entry.open else None)
        entry.lose()
        self._telemetry.emit(RunLost(entry.record.run_id, entry.record.thread_id, why))
        self.wind_up(entry)

    def hand_over(self, entry: Entry) -> None:
        """Releases a run that was handed over to another worker. Its row is not written. Callers that wait
        for it on this worker wait for the end in its row."""
        if entry.elsewhere or entry.settled.is_set():
            return
        entry.lose()
        self._registry.drop(entry.record.run_id)
        entry.warn(Abort(entry.record.status, CancelAction.interrupt, Cause.shutdown, "handed over"))
        entry.settle(entry.record.status, None, self._stamps.now())
        if entry.own is not None:
            self._registry.finished(entry)  # its events stay for its followers

    def force(self, entry: Entry) -> None:
        """Settles the run by force now."""
        if not entry.work.forced:
            self._force(entry)

    def abandon(self, entry: Entry, why: str) -> None:
        """Ends a run that did not stop before the worker signed off."""
        self.lose(entry, why)
        self._settle_lost(entry)

    def _settle_lost(self, entry: Entry) -> None:
        """Settles a lost run that has stopped on this worker or is abandoned."""
        if isinstance(entry.state, Lost):
            if entry.retries:  # another worker may continue it: only its row shows its status
                self._registry.drop(entry.record.run_id)
            entry.settle(entry.record.status, entry.record.error, self._stamps.now())
            self._registry.finished(entry)

    def _force(self, entry: Entry) -> None:
        """Closes and fences a run that did not stop in time, and frees its thread. Ends its cancels."""
        work, record = entry.work, entry.record
        work.disarm()
        if entry.stopped or entry.settled.is_set():
            return
        work.give_up()
        self.forced += 1
        self._telemetry.emit(
            RunForced(
                record.run_id, record.thread_id, self._force_after, stack_of(entry), record.assistant_id
            )
        )
        self.overdue.add(entry)
        self.conclude_soon(entry, None)
