"""One run of this worker, as long as this worker knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from coordinator.assistants.ports import ThreadStates
from coordinator.clock import Clocks
from coordinator.context import RunContext
from coordinator.record import RunRecord
from coordinator.runs.kept import Result
from coordinator.runs.latch import Latch
from coordinator.runs.limits import NO_LIMITS
from coordinator.runs.task_cancel import TaskCancel
from coordinator.schemas import Abort, CancelAction, Cause, Json, RunStatus
from stores.rows import Claimed, Decision, Outcome, Ownership
from stores.states import OPEN

_REAL = Clocks()
_NO_RESULT = Result(None)


class Entry:
    """One run of this worker: its record and what only this process knows of it.

    `own` is the guard of its writes, None while it waits. `turn` is set once it holds the thread or
    has been decided; `settled` once its thread is free (law 3). `tracked` is work that keeps the
    thread held after the task is over. `unwritten` is a decision that the store has not taken yet.
    `warned` says why the task was told to stop although nothing is decided (shutdown). `handed_over`:
    another worker executes it; this entry has left the registry. `inline`: it is being settled in
    its caller's own steps, who does not wait for a store that is away. `temporary`: its thread is.
    `trying_again`: another attempt of its rollback has been asked for, and not answered yet.
    """

    __slots__ = (
        "abort",
        "active_at",
        "clocks",
        "closed",
        "context",
        "delivered_at",
        "force",
        "force_after",
        "force_timer",
        "forced",
        "handed_over",
        "inline",
        "launched",
        "limits",
        "lost",
        "model_name_due",
        "operation",
        "outcome",
        "own",
        "progress_due",
        "record",
        "result",
        "rollback_ref",
        "settled",
        "settling",
        "started",
        "states",
        "stopped_at",
        "supervised",
        "task_cancel",
        "temporary",
        "timers",
        "tracked",
        "trying_again",
        "turn",
        "turn_at",
        "unwritten",
        "warned",
    )  # a dict of so many names for each run would be most of its memory

    def __init__(
        self, record: RunRecord, own: Ownership | None, clocks: Clocks = _REAL, force_after: float = 10.0
    ) -> None:
        self.record = record
        self.force_after = force_after
        self.own = own
        self.clocks = clocks
        self.turn = Latch()
        self.settled = Latch()
        self.started = False
        self.lost = False
        self.abort: Abort | None = None
        self.context: RunContext | None = None
        self.states: ThreadStates | None = None
        self.rollback_ref: Json = None
        self.tracked: set[asyncio.Future[Any]] = set()
        self.outcome: Outcome | None = None
        self.unwritten: Abort | None = None
        self.warned: Abort | None = None
        self.handed_over = False
        self.limits = NO_LIMITS
        self.timers: dict[str, asyncio.TimerHandle] | None = None
        self.active_at, self.turn_at = 0.0, clocks.monotonic()
        self.task_cancel: TaskCancel | None = None
        self.launched: asyncio.Task[Any] | None = None
        self.result = _NO_RESULT
        self.supervised: asyncio.Task[Any] | None = None
        self.force_timer: asyncio.TimerHandle | None = None
        self.force: asyncio.Future[None] | None = None
        self.forced = False
        self.closed = False
        self.progress_due = self.model_name_due = False
        self.delivered_at: int | None = None
        self.stopped_at: int | None = None
        self.settling: asyncio.Future[Any] | None = None
        self.inline = False
        self.temporary = self.trying_again = self.operation = False
        if own is not None:
            self.turn.set()

    @property
    def open(self) -> bool:
        return self.record.status in OPEN

    @property
    def elsewhere(self) -> bool:
        """Another worker, or its reaper, settles it: how it ends only the store knows."""
        return self.lost or self.handed_over

    @property
    def stopped(self) -> bool:
        """Law 3: the task is done and all that it tracked is over."""
        return not self.record.task_active and not self.tracked

    @property
    def returned(self) -> bool:
        """Its code has come to an end of its own, which is written, owed, or about to be."""
        task = self.launched
        return self.outcome is not None or (task is not None and task.done() and not task.cancelled())

    @property
    def touched(self) -> bool:
        """It has a task, or there was a call about it since it was admitted."""
        return self.record.task is not None or self.started or self.active_at > 0 or bool(self.tracked)

    def executes(self, epoch: int) -> bool:
        """As the holder of its thread in this epoch, with a task; it is neither lost nor being settled."""
        own = self.own
        mine = own is not None and own.epoch == epoch and own.fence > 0 and not self.lost
        return mine and self.settling is None and self.record.task_active

    def take_thread(self, claimed: Claimed, epoch: int) -> None:
        self.own = Ownership(self.record.run_id, self.record.thread_id, epoch, claimed.fence)
        self.turn_at = self.clocks.monotonic()
        self.turn.set()

    def tell(self, decision: Decision, stamp: str) -> bool:
        """Apply a decision of somebody else: the record shows it, the abort event says why, the task
        is cancelled. True the first time."""
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
        record = self.record
        self.abort = abort
        self.delivered_at = self.clocks.wall()
        record.abort_action = abort.action.value
        if record.status in OPEN:
            record.status = abort.status
        record.error = error if error is not None else record.error
        record.updated_at = stamp
        record.abort_event.set()
        self.turn.set()
        self.stop_timers()
        self.cancel_task(abort)

    def warn(self, abort: Abort) -> None:
        """Tell the task to stop, and decide nothing: an end that it comes to by itself counts."""
        self.warned = abort
        self.record.abort_event.set()
        self.cancel_task(abort)

    def cancel_task(self, abort: Abort) -> None:
        """Deliver a cancel to the task, once for each: again only where that is swallowed."""
        task = self.record.task
        if task is None or task.done() or (self.task_cancel is not None and self.task_cancel.task is task):
            return
        foreign = task is not self.launched
        self.task_cancel = TaskCancel(task, abort, force_after=self.force_after, foreign=foreign)

    def cancel_no_more(self) -> None:
        if self.task_cancel is not None:
            self.task_cancel.stop()

    def touch(self) -> None:
        """It has shown a sign of life. Cheap; from any thread."""
        self.active_at = self.clocks.monotonic()

    def call_later(self, name: str, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        """Until it is stopped or settles, whichever comes first."""
        timers = self.timers = self.timers or {}
        timers[name] = asyncio.get_running_loop().call_later(seconds, callback, *args)

    def stop_timers(self) -> None:
        timers, self.timers = self.timers, None
        for timer in (timers or {}).values():
            timer.cancel()

    def settle(self, status: RunStatus, error: str | None, stamp: str) -> None:
        record = self.record
        record.status = status
        record.error = error if error is not None else record.error
        record.updated_at = stamp
        if self.force_timer is not None:
            self.force_timer.cancel()
            self.force_timer = None
        self.stop_timers()
        # The row has it from here on: results and values are large, and records stay for a while.
        self.outcome = self.context = None
        if self.result.dropped and not record.task_active:
            record.task = self.supervised = self.launched = None
        self.turn.set()
        self.settled.set()
