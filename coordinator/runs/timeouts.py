"""Ends runs at their time limits (queue, run time, idle) as a cancel does: decided, then delivered.

The owner of a run has its timers, to the millisecond. If the owner is dead, any worker ends overdue runs at
its tick. Only the owner knows how long a run has been idle, so that limit ends with the owner.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import StoreUnavailable
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.jobs import Jobs
from coordinator.runs.registry import Registry
from coordinator.runs.states import Holding, Waiting
from coordinator.runs.work import PARTS
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from stores.base import DecisionStore
from stores.states import OPEN

_WHY = {
    Cause.timeout: "it ran for longer than its time limit",
    Cause.idle: "it gave no sign of life for longer than its idle limit",
    Cause.queue_timeout: "its turn did not come within its queue limit",
}
REASONS = frozenset(_WHY.values())
"""The errors of runs that ended by a time limit."""
PRECISION = 0.001  # s; a difference of times is not exactly zero


@dataclass(slots=True)
class _Silence:
    """How long a run has given no sign of life (s, monotonic clock). Time in which the loop could not run
    does not count, because the run could not give one. `due`: when its next timer is due."""

    since: float
    blocked: float = 0.0
    due: float = 0.0

    def lasts(self, active_at: float, now: float) -> float:
        if active_at > self.since:
            self.since, self.blocked = active_at, 0.0
        self.blocked += max(0.0, now - max(self.due, self.since))
        return now - self.since - self.blocked


class Timeouts:
    def __init__(
        self,
        store: DecisionStore,
        registry: Registry,
        *,
        delivery: Delivery,
        jobs: Jobs,
        launch_within: float | None,
    ) -> None:
        self._store, self._registry, self._delivery, self._jobs = store, registry, delivery, jobs
        self._launch_within = launch_within

    def waits(self, entry: Entry, delay: float) -> None:
        """Starts the queue limit of an admitted run, which joins the queue after `delay` (s)."""
        if isinstance(entry.state, Waiting) and entry.limits.queue is not None:
            self._after(entry, delay + entry.limits.queue, Cause.queue_timeout)

    def runs(self, entry: Entry) -> None:
        """Starts the run time and idle limits of a run that has started."""
        entry.stop_timers()
        timeout, idle, _ = entry.limits
        if timeout is not None:
            self._after(entry, timeout, Cause.timeout)
        if idle is not None:
            self._watch_silence(entry, _Silence(entry.work.clocks.monotonic()), idle)

    def _after(self, entry: Entry, seconds: float, cause: Cause) -> None:
        entry.call_later(cause, seconds, self._expired, entry, cause)

    def _expired(self, entry: Entry, cause: Cause) -> None:
        if (
            not entry.open
            or entry.elsewhere
            or (entry.returned and not entry.work.tracked)
            or (cause is Cause.queue_timeout and entry.own is not None)
        ):
            return
        run_id = entry.record.run_id
        self._jobs.spawn(self.end(run_id, cause), f"ending run {run_id!r} ({cause})")

    def _watch_silence(self, entry: Entry, silence: _Silence, limit: float) -> None:
        """Ends the run when its silence has lasted for `limit` (s). A part of that is waited for at a time,
        so that a blocked loop is noticed as a timer that is late."""
        now = entry.work.clocks.monotonic()
        left = limit - silence.lasts(entry.work.active_at, now)
        if left < PRECISION:
            self._expired(entry, Cause.idle)
            return
        part = min(left, limit / PARTS)
        silence.due = now + part
        entry.call_later(Cause.idle, part, self._watch_silence, entry, silence, limit)

    async def end(self, run_id: str, cause: Cause, *, without_place: bool = False) -> None:
        """Decides and delivers, unless another end came first. A queue limit does not end a claimed run,
        unless it is `without_place`: then it does not start."""
        while_waiting = cause is Cause.queue_timeout and not without_place
        try:
            decision = await self._store.decide(
                run_id,
                RunStatus.timeout,
                action=CancelAction.interrupt,
                cause=cause,
                reason=_WHY[cause],
                error=_WHY[cause],
                while_waiting=while_waiting,
            )
        except StoreUnavailable:
            entry = self._registry.under_way(run_id)
            if entry is None or entry.own is None or not entry.open:  # the next tick retries it
                raise
            if while_waiting:  # claimed while the call was in flight
                return
            self._delivery.stop_locally(
                entry, Abort(RunStatus.timeout, CancelAction.interrupt, cause, _WHY[cause])
            )
            return
        if decision is not None and decision.status not in OPEN:
            await self._delivery.deliver(decision)

    async def end_unlaunched(self) -> None:
        """Ends runs that have held their thread for longer than the limit and that no call has named since:
        their caller was cancelled or dropped them."""
        if (limit := self._launch_within) is None:
            return
        why = f"it was not launched within {limit:g} s after it got its thread"
        for entry in self._registry.untouched():
            if _is_untouched(entry, for_longer_than=limit):
                decision = await self._store.decide(
                    entry.record.run_id,
                    RunStatus.error,
                    action=CancelAction.interrupt,
                    cause=Cause.orphaned,
                    reason=why,
                    error=f"The run was ended: {why}",
                )
                if decision is not None and decision.status not in OPEN:
                    await self._delivery.deliver(decision)


def _is_untouched(entry: Entry, *, for_longer_than: float) -> bool:
    """Whether it has held its thread for more than `for_longer_than` (s) without a call that names it."""
    state = entry.state
    if not isinstance(state, Holding) or not state.hold.own.fence or not entry.open:
        return False
    long = entry.work.clocks.monotonic() - state.hold.since > for_longer_than
    return long and not entry.touched and entry.settling is None
