"""Background jobs of a manager. Failures are logged, and no job outlives its manager."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

from coordinator.errors import CoordinatorError
from coordinator.telemetry.repeated import level_of_failure
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Jobs:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[object, object, T], what: str) -> asyncio.Task[T]:
        """Runs `work` as a task. A failure is logged with `what`."""
        task = begin_soon(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, what))
        return task

    def _done(self, task: asyncio.Task[object], what: str) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, CoordinatorError):
            logger.log(level_of_failure(error), "%s: %s", what, error)
        else:
            logger.error("%s failed", what, exc_info=error)

    async def finished(self, within: float) -> None:
        """Waits `within` / 2 (s) for the jobs, cancels the rest, and waits as long again."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within / 2)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within / 2)


async def through(task: asyncio.Future[T]) -> T:
    """Awaits `task` to its end even if the caller is cancelled, any number of times; then raises
    CancelledError."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001 - raised below, by result()
            break
    if cancelled is not None and not task.cancelled():
        raise cancelled
    return task.result()
