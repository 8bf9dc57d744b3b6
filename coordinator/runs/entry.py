"""A run of this worker, while this worker has it in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.clock import Clocks
from coordinator.record import RunRecord
from coordinator.runs.kept import Result
from coordinator.runs.latch import Latch
from coordinator.runs.limits import NO_LIMITS
from coordinator.runs.states import (
    TRANSITIONS,
    Closing,
    End,
    Hold,
    Holding,
    Lost,
    Released,
    Settled,
    State,
    Stopping,
    Waiting,
)
from coordinator.runs.work import Work
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from stores.rows import Claimed, Decision, Outcome, Ownership
from stores.states import OPEN
from stores.tasks import AnyFuture

_REAL = Clocks()
NO_RESULT = Result(None)


class Entry:
    """A run of this worker: its record, its state on this worker, and its work.

    `settled` is set once the run has freed its thread (law 3), or another worker is to free it. `settling`
    writes its end: a job, or a future that stands for the steps of a caller. `temporary`: its thread is
    temporary. `operation`: an operation, which holds its thread like a run.
    """

    __slots__ = (
        "limits",
        "operation",
        "record",
        "settled",
        "settling",
        "state",
        "temporary",
        "timers",
        "work",
    )  # a dict for each run would be most of its memory

    def __init__(
        self, record: RunRecord, own: Ownership | None, clocks: Clocks = _REAL, force_after: float = 10.0
    ) -> None:
        self.record = record
        self.work = Work(clocks, force_after)
        self.state: State = Waiting() if own is None else Holding(End(), Hold(own, clocks.monotonic()))
        self.settled = Latch()
        self.settling: AnyFuture | None = None
        self.limits = NO_LIMITS
        self.timers: dict[str, asyncio.TimerHandle] | None = None
        self.temporary = self.operation = False

    # -- properties

    @property
    def own(self) -> Ownership | None:
        """The guard of its writes; None until the run gets its thread."""
        hold = self.state.hold
        return None if hold is None else hold.own

    @property
    def abort(self) -> Abort | None:
        """The decision to stop it; None while there is none."""
        return self.state.abort

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of its code, until it is written to the row."""
        end = self.state.end
        return None if end is None else end.outcome

    @property
    def unwritten(self) -> Abort | None:
        """A decision over it that is not written to the store yet."""
        end = self.state.end
        return None if end is None else end.unwritten

    @property
    def open(self) -> bool:
        return self.record.status in OPEN

    @property
    def elsewhere(self) -> bool:
        """Another worker, or its reaper, settles the run; only the store has its end."""
        return self.state.elsewhere

    @property
    def queued(self) -> bool:
        """The run has not had its thread and belongs to this worker: waiting, or decided before a claim."""
        state = self.state
        return state.hold is None and not state.elsewhere

    @property
    def started(self) -> bool:
        hold = self.state.hold
        return hold is not None and hold.started

    @property
    def attempt(self) -> int:
        hold = self.state.hold
        return 1 if hold is None else hold.attempt

    @property
    def retries(self) -> int:
        """Further attempts that it may have on other workers after deaths of its worker."""
        continuation = self.work.continuation
        return 0 if continuation is None else continuation.retries

    @property
    def hands_over(self) -> bool:
        """Its task has stopped undecided, so that another worker continues it."""
        continuation = self.work.continuation
        return continuation is not None and continuation.begins

    @property
    def handed_over(self) -> bool:
        """Its row shows that another worker continues it."""
        continuation = self.work.continuation
        return continuation is not None and continuation.written

    @property
    def may_continue(self) -> bool:
        """Another worker may continue it if this one leaves it undecided."""
        own = self.own
        return self.retries > 0 and own is not None and own.fence > 0 and self.abort is None and self.open

    @property
    def stopped(self) -> bool:
        """Law 3: the task and all work that it tracked are done."""
        return not self.record.task_active and not self.work.tracked

    @property
    def returned(self) -> bool:
        """Its code has ended by itself, and this end is written, queued, or about to be written."""
        return self.outcome is not None or self.work.returned

    @property
    def touched(self) -> bool:
        """It has a task, or a call has named it since its admission."""
        work = self.work
        return self.record.task is not None or self.started or work.active_at > 0 or bool(work.tracked)

    @property
    def settled_by_job(self) -> bool:
        """Whether a job writes its end. A job waits for a store that is unavailable; a caller does not."""
        return isinstance(self.settling, asyncio.Task)

    def executes(self, epoch: int) -> bool:
        """Whether it holds its thread in this epoch, has a task, and is neither lost nor being settled."""
        own = self.own
        mine = own is not None and own.epoch == epoch and own.fence > 0 and not self.elsewhere
        return mine and self.settling is None and self.record.task_active

    # -- transitions

    def _become(self, state: State) -> None:
        before = self.state
        if state.__class__ not in TRANSITIONS[before.__class__]:
            raise AssertionError(
                f"run {self.record.run_id!r}: {before.__class__.__name__} -> {state.__class__.__name__}"
            )
        self.state = state
        if isinstance(before, Waiting):
            before.turn.set()

    def take_thread(self, claimed: Claimed, epoch: int) -> None:
        """Applies a claim: the run holds its thread. If it was decided or its task ended before the claim, it
        only frees the thread again. No effect on a run that has had its thread or belongs to another
        worker."""
        state, record = self.state, self.record
        own = Ownership(record.run_id, record.thread_id, epoch, claimed.fence)
        hold = Hold(own, self.work.clocks.monotonic())
        hold.start = claimed.started
        if isinstance(state, Waiting):
            over = self.settling is not None
            self._become(Closing(state.end, hold, None) if over else Holding(state.end, hold))
        elif isinstance(state, Stopping) and state.hold is None:
            state.hold = hold

    def apply(self, decision: Decision, stamp: str) -> bool:
        """Applies a decision of the store: updates the record, sets the abort event, cancels the task.
        Returns False if a decision was applied before."""
        if self.abort is not None or self.settled.is_set():
            return False
        abort = Abort(
            decision.status,
            decision.action or CancelAction.interrupt,
            decision.cause or Cause.admin,
            decision.reason,
            decision.actor,
        )
        self.stop(abort, stamp, decision.error)
        return True

    def stop(self, abort: Abort, stamp: str, error: str | None = None) -> None:
        """Applies the first decision over the run, made by this worker or read from the store."""
        state, record = self.state, self.record
        if isinstance(state, Closing):
            state.abort = abort
        else:
            self._become(Stopping(state.end or End(), state.hold, abort))
        self.work.delivered_at = self.work.clocks.wall()
        record.abort_action, record.abort_cause = abort.action.value, abort.cause
        record.abort_reason, record.abort_actor = abort.reason, abort.actor
        if record.status in OPEN:
            record.status = abort.status
        record.error = error if error is not None else record.error
        record.updated_at = stamp
        record.abort_event.set()
        self.stop_timers()
        self.cancel_task(abort)

    def close(self) -> None:
        """Refuses further writes of the run's fence in this process. Idempotent."""
        state, work = self.state, self.work
        if self.stopped:
            work.stopped_at = work.stopped_at or work.clocks.wall()
        if state.hold is None:
            return
        state.hold.close()
        if isinstance(state, (Holding, Stopping)):
            self._become(Closing(state.end, state.hold, state.abort))

    def lose(self) -> None:
        """Ends all writes of the run. Only for a run that is neither lost nor settled."""
        self._become(Lost(self.state.hold, self.state.abort))

    def settle(self, status: RunStatus, error: str | None, stamp: str, result: Result = NO_RESULT) -> None:
        """Ends the run on this worker. Must be called once."""
        record, state = self.record, self.state
        if state.elsewhere:
            self._become(Released(state.hold, state.abort))
        else:
            self._become(Settled(state.hold, state.abort, result))
        record.status = status
        record.error = error if error is not None else record.error
        record.updated_at = stamp
        self.work.settle()
        self.stop_timers()
        # The row has the result from here on: results and values are large, and records stay for a while.
        if state.hold is not None:
            state.hold.release()
        if result.dropped and not record.task_active:
            record.task = self.work.supervised = self.work.launched = None
        self.settled.set()

    # -- its end, its task, its time

    def report(self, outcome: Outcome | None) -> None:
        """Records the outcome of its code; the first report counts."""
        if (end := self.state.end) is not None:
            end.outcome = end.outcome or outcome

    def replace_outcome(self, outcome: Outcome) -> None:
        """Replaces the outcome by one that the store accepts."""
        if (end := self.state.end) is not None:
            end.outcome = outcome

    def set_unwritten(self, abort: Abort) -> None:
        """Keeps a decision of this worker, to be written before the run settles."""
        if (end := self.state.end) is not None:
            end.unwritten = abort

    def warn(self, abort: Abort) -> None:
        """Cancels the task without a decision: if the task ends by itself, its own outcome counts."""
        self.work.warned = abort
        self.record.abort_event.set()
        self.cancel_task(abort)

    def cancel_task(self, abort: Abort) -> None:
        """Delivers a cancel to the task, once per task; again only if the task swallowed it."""
        self.work.cancel_task(self.record.task, abort)

    def touch(self) -> None:
        """Records a sign of life. Cheap; may be called from any thread."""
        self.work.active_at = self.work.clocks.monotonic()

    def call_later(self, name: str, seconds: float, callback: Callable[..., None], *args: object) -> None:
        """Calls `callback` after `seconds`, unless the run is stopped or settles before."""
        timers = self.timers = self.timers or {}
        timers[name] = asyncio.get_running_loop().call_later(seconds, callback, *args)

    def stop_timers(self) -> None:
        timers, self.timers = self.timers, None
        for timer in (timers or {}).values():
            timer.cancel()
