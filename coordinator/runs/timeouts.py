"""Time limits: how long a run may wait, run, and be silent. Each ends it as a cancel does: decided, told.

The worker that has the run keeps its time, to the millisecond. What no timer of its own ends any more (its
home is dead, its timers are gone) any worker finds overdue at its tick. Silence alone is known nowhere
but at the owner: it ends with the owner.
"""

from __future__ import annotations

from coordinator.arguments import check_time_limit
from coordinator.errors import StoreUnavailable
from coordinator.runs.cancellation import Delivery
from coordinator.runs.entry import Entry
from coordinator.runs.jobs import Jobs
from coordinator.runs.limits import TimeLimits
from coordinator.runs.registry import Registry
from coordinator.runs.states import Holding, Waiting
from coordinator.schemas import Abort, CancelAction, Cause, RunStatus
from coordinator.settings import Settings
from stores.base import DecisionStore
from stores.states import OPEN

_WHY = {
    Cause.timeout: "it ran for longer than its time limit",
    Cause.idle: "it gave no sign of life for longer than its idle limit",
    Cause.queue_timeout: "its turn did not come within its queue limit",
}


def limits_of(settings: Settings, timeout: object, idle: object, queue: object) -> TimeLimits:
    """Checked; "default" = what the settings say. Raises InvalidArgument."""
    return TimeLimits(
        check_time_limit("timeout", timeout, settings.run_timeout),
        check_time_limit("idle_timeout", idle, settings.idle_timeout),
        check_time_limit("queue_timeout", queue, settings.queue_timeout),
    )


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
        """It was admitted, and may have to wait for its turn, from when its time has come."""
        if isinstance(entry.state, Waiting) and entry.limits.queue is not None:
            self._after(entry, delay + entry.limits.queue, Cause.queue_timeout)

    def runs(self, entry: Entry) -> None:
        """It has started."""
        entry.stop_timers()
        timeout, idle, _ = entry.limits
        if timeout is not None:
            self._after(entry, timeout, Cause.timeout)
        if idle is not None:
            entry.touch()
            self._after(entry, idle, Cause.idle)

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
        if cause is Cause.idle and entry.limits.idle is not None:
            left = entry.work.active_at + entry.limits.idle - entry.work.clocks.monotonic()
            if left > 0:  # it was not silent: one timer, however often it speaks
                self._after(entry, left, cause)
                return
        run_id = entry.record.run_id
        self._jobs.spawn(self.end(run_id, cause), f"ending run {run_id!r} ({cause})")

    async def end(self, run_id: str, cause: Cause) -> None:
        """Decide and tell, unless another end came first; one that has got its turn waits no longer."""
        try:
            decision = await self._store.decide(
                run_id,
                RunStatus.timeout,
                action=CancelAction.interrupt,
                cause=cause,
                reason=_WHY[cause],
                error=_WHY[cause],
                while_waiting=cause is Cause.queue_timeout,
            )
        except StoreUnavailable:
            entry = self._registry.under_way(run_id)
            if entry is None or entry.own is None or not entry.open:  # the tick finds it once more
                raise
            if cause is Cause.queue_timeout:  # its turn came while the store was asked
                return
            self._delivery.stop_locally(
                entry, Abort(RunStatus.timeout, CancelAction.interrupt, cause, _WHY[cause])
            )
            return
        if decision is not None and decision.status not in OPEN:
            await self._delivery.deliver(decision)

    async def end_unlaunched(self) -> None:
        """End the runs that have had their thread for longer than the limit, and with which nobody has done
        anything: who admitted them was cancelled, or forgot them."""
        if (limit := self._launch_within) is None:
            return
        why = f"it was not launched within {limit:g} s after it had got its thread"
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
    """It has held its thread for more than so many seconds, and nobody has done anything with it."""
    state = entry.state
    if not isinstance(state, Holding) or not state.hold.own.fence or not entry.open:
        return False
    long = entry.work.clocks.monotonic() - state.hold.since > for_longer_than
    return long and not entry.touched and entry.settling is None
