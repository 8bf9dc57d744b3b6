"""The loop that fires crons: whoever looks first when one is due.

No worker is the one that does it, and none has a cron for itself: the run is admitted only while the cron
is due at that very moment, and that ends with its admission. So a worker that dies on the way has fired
nothing, and one that dies afterwards has fired it once.
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
from stores.crons import CronRow, DueCrons, Firing
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

BATCH = 50
_FAREWELL = 5.0  # s; for an admission that is under way when the worker leaves

Fire = Callable[[CronRow, Firing], Awaitable[bool]]
"""Admit the run of that moment. True = it is there, be it from before. What it raises is a refusal."""

_NOT_NOW = (StoreError, Draining, EpochDead, LeaseLost)
"""Of this worker, at this time: the cron stays due, for whoever comes."""


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
    """Looks every `poll` s, and at the moment itself where that is nearer."""

    def __init__(self, crons: FiredHere, worker: MayDrain, fire: Fire, *, poll: float) -> None:
        self._crons, self._worker, self._fire, self._poll = crons, worker, fire, poll
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Fire for as long as the block lasts."""
        loop = begin_soon(self._fire_until_stopped(), name="the firing of crons")
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.wait((loop,), timeout=_FAREWELL)
            loop.cancel()
            await asyncio.wait((loop,))

    async def _fire_until_stopped(self) -> None:
        while not self._stop.is_set():
            pause = self._poll * random.uniform(0.9, 1.1)
            try:
                pause = min(pause, await self._round())
            except CoordinatorError as error:
                logger.warning("Looking for crons: %s", error)
            except Exception:
                logger.exception("Looking for crons failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    async def _round(self) -> float:
        """Fire what is due; answer in how many seconds to look again."""
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
        """Once for every moment that has passed unnoticed, however many these were. Raises where this
        worker cannot fire now."""
        if cron.next_at is None:
            return
        firing = Firing(cron.cron_id, cron.next_at, None)
        try:
            firing = firing._replace(next_at=next_moment(cron, after=max(now, cron.next_at)))
            if cron.end_at is not None and now > cron.end_at:
                await self._crons.skip(firing._replace(next_at=None), error="its end time has passed")
            elif await self._fire(cron, firing):
                await self._crons.skip(firing, error=None)  # for a run that was there without it
        except CronFired:
            return
        except _NOT_NOW:
            raise
        except Exception as error:  # noqa: BLE001 - whatever refuses this run must not keep its cron due
            logger.warning("Cron %r became no run: %s", cron.cron_id, error)
            await self._crons.skip(firing, error=f"{type(error).__name__}: {error}"[:1000])


def next_moment(cron: CronRow, *, after: int) -> int | None:
    """When it is due next, if ever. Raises InvalidArgument."""
    when = Schedule(cron.schedule, cron.timezone).after(after)
    return None if cron.end_at is not None and when > cron.end_at else when


def _shuffled(crons: Sequence[CronRow]) -> list[CronRow]:
    """Workers that look at the same moment meet less often."""
    return random.sample(crons, len(crons))
