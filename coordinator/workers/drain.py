"""Shutdown: stop admitting, let runs finish, stop the rest, leave. Shutdown is not a cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from coordinator.runs.cancellation import Delivery
from coordinator.runs.registry import Entry, Registry
from coordinator.runs.settlement import Settlement
from coordinator.schemas import CancelAction, Cause, RunStatus
from coordinator.workers.worker import Worker
from stores.base import DecisionStore
from stores.errors import CoordinatorError

logger = logging.getLogger(__name__)

LEAST_UNWIND, UNWIND = 0.5, 5.0  # s; how long cancelled tasks get to unwind and settle


class Drain:
    """Tasks are cancelled first and decided only if they do not end by themselves: one that finishes
    with `success` while unwinding keeps it."""

    def __init__(
        self,
        store: DecisionStore,
        registry: Registry,
        *,
        worker: Worker,
        delivery: Delivery,
        settlement: Settlement,
        grace: Callable[[], float],
    ) -> None:
        self._store, self._registry, self._worker = store, registry, worker
        self._delivery, self._settlement, self._grace = delivery, settlement, grace

    async def run(self, timeout: float | None) -> None:
        """Bounded: `timeout` (default: grace), then at most as long again, twice, for the unwinding of
        what was cancelled. Twice is harmless."""
        self._worker.drain()
        await asyncio.sleep(0)  # a task that is over has its run settled from here on
        entries = self._registry.unsettled()
        idle = [entry for entry in entries if entry.stopped and entry.settling is None]
        for entry in idle:
            await self._decide(entry)
        working = [entry for entry in entries if not entry.settled.is_set()]
        grace = self._grace() if timeout is None else timeout
        unwind = min(UNWIND, max(grace, LEAST_UNWIND))
        await _within(grace, working)
        for entry in working:
            if not entry.settled.is_set() and entry.abort is None and entry.record.task is not None:
                entry.record.task.cancel()
        await _within(unwind, working)
        for entry in working:
            await self._decide(entry)
        await _within(unwind, working)

    async def _decide(self, entry: Entry) -> None:
        if entry.settled.is_set() or entry.lost:
            return
        if entry.stopped and not entry.open:  # decided by its own code, be it only on the record
            self._settlement.conclude_soon(entry, None)
            return
        try:
            decision = await self._store.decide(
                entry.record.run_id,
                RunStatus.interrupted,
                action=CancelAction.interrupt,
                cause=Cause.shutdown,
                reason="the worker shut down",
            )
            if decision is not None:
                async with asyncio.timeout(UNWIND):
                    await self._delivery.tell(entry, decision)
        except (CoordinatorError, TimeoutError) as error:
            logger.warning("Run %r could not be ended at shutdown: %s", entry.record.run_id, error)


async def _within(seconds: float, entries: list[Entry]) -> None:
    ends = [asyncio.ensure_future(_ended(entry)) for entry in entries if not entry.settled.is_set()]
    if ends:
        await asyncio.wait(ends, timeout=seconds)
    for end in ends:
        end.cancel()


async def _ended(entry: Entry) -> None:
    """Settled, or its task has stopped and nobody settles it."""
    settled = asyncio.ensure_future(entry.settled.wait())
    try:
        if (task := entry.record.task) is not None:
            await asyncio.wait((task, settled), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # what follows on the end of the task
        if entry.settling is not None:
            await settled
    finally:
        settled.cancel()
