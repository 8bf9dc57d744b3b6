"""One deadline for all steps of a shutdown: no step can use up the time of the steps after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress

logger = logging.getLogger(__name__)

EXIT_WITHIN = 4.7
"""Seconds after the grace within which the process exits. The documented limit is 5 s; the difference is for
timers that a busy machine runs late."""


class Deadline:
    """`at` is a time of the running event loop's clock (s)."""

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def share(self) -> float:
        """Seconds that the next step may take: half of the remaining time."""
        return max(0.0, self.at - asyncio.get_running_loop().time()) / 2

    async def step(self, what: str, work: Awaitable[object]) -> None:
        """Await `work` for at most `share`. On timeout it is cancelled, the timeout is logged, and the
        shutdown continues."""
        done = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self.share):
                await work
                done = True
        if not done:
            logger.error("Shutdown step %r timed out and was cancelled; the shutdown continues", what)
