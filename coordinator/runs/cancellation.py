"""Cancels runs: the decision is committed, then acknowledged, then delivered to the task, once."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Protocol

from coordinator.clock import Stamps
from coordinator.errors import CancelNotDurable, NotSettled, StoreUnavailable
from coordinator.notifier import Notifier, Signal
from coordinator.runs.children import announce_end
from coordinator.runs.entry import Entry
from coordinator.runs.incarnation import Incarnation
from coordinator.runs.jobs import Jobs
from coordinator.runs.queries import Waiter
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.settling import WAITED_FOR
from coordinator.schemas import (
    Abort,
    CancelAction,
    CancelAnswer,
    CancelOutcome,
    Cause,
    DisconnectMode,
    RunStatus,
)
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import RunAborted
from stores.base import DecisionStore, ReadStore, RecordStore
from stores.outbox import Outbox
from stores.rows import Claimed, Decision
from stores.states import OPEN

logger = logging.getLogger(__name__)


class DecidingStore(DecisionStore, ReadStore, RecordStore, Protocol):
    """Store operations that a cancel uses."""


class Delivery:
    """Delivers a decision to the task of its run, on this worker or on the worker that executes it."""

    def __init__(
        self,
        store: DecisionStore,
        registry: Registry,
        *,
        notifier: Notifier,
        worker: Incarnation,
        settlement: Settlement,
        telemetry: Telemetry,
        stamps: Stamps,
    ) -> None:
        self._store, self._registry, self._notifier, self._worker = store, registry, notifier, worker
        self._settlement, self._telemetry, self._stamps = settlement, telemetry, stamps

    async def deliver(self, decision: Decision, within: float = WAITED_FOR) -> None:
        """Cancels the local task, or publishes to the worker that executes the run; does the same for the
        children that the decision ended. Returns when the local runs without a task have settled, after
        `within` (s) at the latest; they settle even if the caller is cancelled."""
        if settling := self._deliver(decision):
            await asyncio.wait(settling, timeout=within)

    def _deliver(self, decision: Decision) -> list[asyncio.Future[None]]:
        settling = [future for child in decision.children for future in self._deliver(child)]
        entry = self._registry.under_way(decision.run_id)
        if entry is not None and not self._release_if_elsewhere(entry, decision):
            future = self._apply(entry, decision)
            return settling if future is None else [*settling, future]
        announce_end(self._telemetry, decision)
        self._registry.request_refresh(decision.run_id)
        home = decision.worker
        signal = Signal(kind="cancel", thread_id=decision.thread_id, run_id=decision.run_id)
        if home is not None and home != self._worker.epoch:
            self._notifier.notify_worker(home, signal)
        if decision.settled:
            self._notifier.notify_thread(decision.thread_id, signal.model_copy(update={"kind": "settled"}))
        return settling

    def _apply(self, entry: Entry, decision: Decision) -> asyncio.Future[None] | None:
        own_report = decision.action is None and entry.own is not None
        if own_report and not entry.stopped:
            return None  # the run's code has reported this end, and its task is about to return
        if not own_report and entry.apply(decision, self._stamps.now()):
            self._announce(entry)
        return self._settlement.wind_up(entry)

    def apply_ownership(self, entry: Entry, standing: Decision) -> None:
        """Gives the run its thread in memory if its row holds it: the response to the claim is late or was
        lost."""
        if entry.queued and not standing.settled and standing.owner_epoch == self._worker.epoch:
            entry.take_thread(Claimed(entry.record.run_id, standing.fence), self._worker.epoch)

    def _announce(self, entry: Entry) -> None:
        if (abort := entry.abort) is not None:
            run_id, thread_id = entry.record.run_id, entry.record.thread_id
            self._telemetry.emit(
                RunAborted(run_id, thread_id, abort.status, abort.cause, abort.reason, abort.actor)
            )

    async def refresh_from_store(self, run_id: str) -> None:
        """Reads the run's row after a hint, and applies it. Does not wait for a task."""
        entry = self._registry.under_way(run_id)
        if entry is None:
            self._registry.request_refresh(run_id)
        elif not self._is_stopping(entry):
            self.apply_row(entry, await self.read_decision(run_id))

    def lose(self, entry: Entry, why: str) -> None:
        """Drops a run that, according to the store, does not hold its thread: another run may take the thread
        at any time."""
        self._settlement.lose(entry, why)

    async def read_decision(self, run_id: str) -> Decision | None:
        """Returns the decision in the run's row, for `apply_row`; None if the row is missing."""
        return await self._store.standing(run_id)

    def apply_row(self, entry: Entry, standing: Decision | None) -> None:
        """Applies `standing`, the decision in the run's row; None = the row is missing. Does not wait for a
        task."""
        if self._is_stopping(entry):
            return
        if standing is None:
            if entry.own is None:  # its thread was deleted, so no claim will come
                self._settlement.lose(entry, "the run was deleted while it waited")
        elif not self._release_if_elsewhere(entry, standing) and standing.status not in OPEN:
            self._apply(entry, standing)

    def _release_if_elsewhere(self, entry: Entry, standing: Decision) -> bool:
        """Releases a run that was handed over: another worker executes it, or has executed it. Returns
        whether it did. A run that ended while it was queued was not handed over."""
        self.apply_ownership(entry, standing)
        if entry.own is not None and not entry.handed_over:
            return False
        if not standing.elsewhere(self._worker.epoch):
            return False
        self._settlement.hand_over(entry)
        return True

    def _is_stopping(self, entry: Entry) -> bool:
        """Returns whether the run has settled, or its task was cancelled before and only has to stop."""
        if entry.abort is not None and not entry.settled.is_set():
            self._settlement.wind_up(entry)
        return entry.abort is not None or entry.settled.is_set()

    def stop_locally(self, entry: Entry, abort: Abort) -> None:
        """Cancels the local task although the decision could not be written; it is written before the run
        settles."""
        if entry.abort is None:
            entry.set_unwritten(abort)
            entry.stop(abort, self._stamps.now())
            self._announce(entry)
        self._settlement.wind_up(entry)


class Cancellations:
    def __init__(
        self,
        store: DecidingStore,
        registry: Registry,
        *,
        delivery: Delivery,
        waiter: Waiter,
        worker: Incarnation,
        jobs: Jobs,
        outbox: Outbox,
    ) -> None:
        self._store, self._registry, self._worker = store, registry, worker
        self._delivery, self._waiter, self._jobs, self._outbox = delivery, waiter, jobs, outbox

    async def cancel(
        self,
        run_id: str,
        *,
        action: CancelAction,
        cause: Cause,
        reason: str | None,
        actor: str | None,
        user_id: str | None,
        wait: float | None,
    ) -> CancelAnswer:
        """Interrupts the run, if it has not ended. With `wait` (s), returns when it has settled, else raises
        NotSettled. Raises CancelNotDurable if only the local task could be cancelled."""
        if user_id is not None and not await self._visible(run_id, user_id):
            return CancelAnswer(CancelOutcome.not_found)
        abort = Abort(RunStatus.interrupted, action, cause, reason, actor)
        # A job: if the caller is cancelled, a committed decision is still delivered.
        within = WAITED_FOR if wait is None else min(wait, WAITED_FOR)
        deciding = self._jobs.spawn(self._stop(run_id, abort, within), f"cancelling run {run_id!r}")
        decision = await asyncio.shield(deciding)
        answer = _answer_of(decision, self._worker.epoch)
        if answer and wait is not None:
            await self._until_over(run_id, wait)
        return answer

    async def _until_over(self, run_id: str, wait: float) -> None:
        """Returns when the run has settled. A run whose row is missing has settled and was removed since,
        unless it is unsettled on this worker: then its row will be recreated. Raises NotSettled."""
        loop, left = asyncio.get_running_loop(), wait
        until = loop.time() + wait
        while not await self._waiter.until_settled(run_id, left):
            if not self._registry.is_unsettled(run_id) and await self._store.row(run_id) is None:
                return
            if (left := until - loop.time()) <= 0:
                raise NotSettled(run_id, wait)

    async def disconnected(self, run_id: str, user_id: str | None) -> bool:
        """Cancels the run if it was admitted with `on_disconnect="cancel"`, because its client has
        disconnected. Returns whether it did, as `cancel`."""
        entry = self._registry.entry(run_id)
        run = entry.record if entry is not None else await self._store.row(run_id)
        if run is None or run.on_disconnect != DisconnectMode.cancel:
            return False
        answer = await self.cancel(
            run_id,
            action=CancelAction.interrupt,
            cause=Cause.disconnect,
            reason="its client has disconnected",
            actor=None,
            user_id=user_id,
            wait=None,
        )
        return bool(answer)

    async def _stop(self, run_id: str, abort: Abort, within: float) -> Decision | None:
        """Commits the decision, then delivers it, for at most `within` (s). If the store is unavailable, a
        run of this worker is stopped all the same, and the decision is committed later."""
        try:
            decision = await self._decide(run_id, abort)
        except StoreUnavailable as error:
            entry = self._registry.under_way(run_id)
            if entry is None or entry.own is None or not entry.open:  # not executed on this worker
                raise
            self._delivery.stop_locally(entry, abort)
            # The end of the run commits it, unless the lease ends first: then another attempt may begin.
            self._outbox.enqueue(f"the cancel of run {run_id!r}", partial(self._decide_again, run_id, abort))
            raise CancelNotDurable(run_id, error.what) from error
        if decision is not None:
            await self._delivery.deliver(decision, within)
        return decision

    async def _decide(self, run_id: str, abort: Abort) -> Decision | None:
        return await self._store.decide(
            run_id,
            abort.status,
            action=abort.action,
            cause=abort.cause,
            reason=abort.reason,
            actor=abort.actor,
        )

    async def _decide_again(self, run_id: str, abort: Abort) -> None:
        """Commits a decision that was not durable, and delivers it also if it is committed already: the
        response to the commit may have been lost."""
        decision = await self._decide(run_id, abort)
        if decision is not None:
            self._jobs.spawn(self._delivery.deliver(decision), f"delivering the cancel of run {run_id!r}")

    async def _visible(self, run_id: str, user_id: str) -> bool:
        entry = self._registry.entry(run_id)
        if entry is not None:
            return entry.record.user_id == user_id
        return await self._store.get(run_id, user_id=user_id) is not None


def _answer_of(decision: Decision | None, epoch: int) -> CancelAnswer:
    """`epoch`: of this worker."""
    if decision is None:
        return CancelAnswer(CancelOutcome.not_found)
    outcome = CancelOutcome.ended
    if decision.status is RunStatus.interrupted:
        outcome = CancelOutcome.committed if decision.won else CancelOutcome.repeated
    worker = None if decision.settled else decision.worker
    return CancelAnswer(
        outcome,
        decision.status,
        decision.action,
        decision.cause,
        decision.reason,
        decision.actor,
        None if worker is None else "this" if worker == epoch else "another",
    )
