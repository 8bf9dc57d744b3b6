"""The loop that fires due crons. Every worker runs it; the first to fire a moment wins.

There is no leader and no claim: the transaction that admits the run checks that the cron is due at this
moment, and advances it to the next one. So a worker that dies before the commit has fired nothing, and one
that dies after it has fired the cron once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from coordinator.crons.schedule import Schedule
from coordinator.errors import (
    CoordinatorError,
    CronFired,
    Draining,
    EpochDead,
    LeaseLost,
    StoreError,
)
from coordinator.telemetry.repeated import Repeated
from stores.crons import CronRow, DueCrons, Firing
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 50
_STOP_WITHIN = 5.0  # s; for an admission in progress when the worker shuts down

Fire = Callable[[CronRow, Firing], Awaitable[bool]]
"""Admits the run of a moment. Returns True if the run exists, even if an earlier call admitted it. Raises if
the run is refused."""

_WORKER_UNABLE = (StoreError, Draining, EpochDead, LeaseLost)
"""Errors of this worker at this time, not of the cron: the cron stays due, and any worker may fire it."""


class FiredHere(Protocol):
    """What the loop needs of `manager.crons`: crons whose assistants this worker has."""

    async def next_due(self) -> float | None: ...
    async def due(self, *, limit: int) -> DueCrons: ...
    async def skip(self, firing: Firing, *, error: str | None) -> bool: ...


class MayDrain(Protocol):
    """What the loop needs of `manager.worker`."""

    @property
    def draining(self) -> bool: ...


class FiringLoop:
    """Polls for due crons every `poll` seconds, or when the next cron is due if that is sooner."""

    def __init__(self, crons: FiredHere, worker: MayDrain, fire: Fire, *, poll: float) -> None:
        self._crons, self._worker, self._fire, self._poll = crons, worker, fire, poll
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs the loop within the block."""
        loop = begin_soon(self._fire_until_stopped(), name="the firing of crons")
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.wait((loop,), timeout=_STOP_WITHIN)
            loop.cancel()
            await asyncio.wait((loop,))

    async def _fire_until_stopped(self) -> None:
        failures = Repeated()
        while not self._stop.is_set():
            pause = self._poll * random.uniform(0.9, 1.1)
            try:
                pause = min(pause, await self._round())
            except CoordinatorError as error:
                logger.log(
                    failures.level_of(error),
                    "This worker could not fire crons; due crons stay due, and it retries: %s",
                    error,
                )
            except Exception:
                logger.exception("This worker could not fire crons; due crons stay due, and it retries")
            else:
                failures.succeeded()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    async def _round(self) -> float:
        """Fires due crons, and returns the seconds until the next round."""
        if self._worker.draining:
            return self._poll
        due_in = await self._crons.next_due()
        if due_in is None or due_in > 0:
            return self._poll if due_in is None else due_in
        due = await self._crons.due(limit=BATCH)
        for cron in _shuffled(due.crons):
            await self.fire(cron, due.now)
        return 0 if len(due.crons) == BATCH else self._poll

    async def fire(self, cron: CronRow, now: int) -> None:
        """Fires `cron` once, even if several of its moments have passed since the last time. A refused run is
        recorded on the cron. Raises StoreError, Draining, EpochDead or LeaseLost if this worker cannot fire
        now."""
        if cron.next_at is None:
            return
        firing = Firing(cron.cron_id, cron.next_at, None)
        try:
            firing = firing._replace(next_at=next_moment(cron, after=max(now, cron.next_at)))
            if cron.end_at is not None and now > cron.end_at:
                await self._crons.skip(firing, error="its end time has passed")
            elif await self._fire(cron, firing):
                # The run existed, so nothing advanced the cron.
                await self._crons.skip(firing, error=None)
        except CronFired:
            return
        except _WORKER_UNABLE:
            raise
        except Exception as error:  # noqa: BLE001 - a refused run must not keep its cron due
            logger.warning("The run of cron %r was refused, this moment is skipped: %s", cron.cron_id, error)
            await self._crons.skip(firing, error=f"{type(error).__name__}: {error}"[:1000])


def next_moment(cron: CronRow, *, after: int) -> int | None:
    """Returns the first moment after `after` (both µs since 1970), or None if the cron ends before. Raises
    InvalidArgument."""
    when = Schedule(cron.schedule, cron.timezone).after(after)
    return None if cron.end_at is not None and when > cron.end_at else when


def _shuffled(crons: Sequence[CronRow]) -> list[CronRow]:
    """Returns the crons in random order, so that workers that poll at the same time conflict less often."""
    return random.sample(crons, len(crons))
