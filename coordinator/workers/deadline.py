"""One deadline for all the steps of an end: none of them can use up what the others need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress

logger = logging.getLogger(__name__)

GONE = 4.7
"""Seconds after the grace within which a worker is gone. It promises 5; a busy machine wakes it late."""


class Deadline:
    """`at` is on the clock of the running event loop."""

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def share(self) -> float:
        """s that the next step may take: half of what is left."""
        return max(0.0, self.at - asyncio.get_running_loop().time()) / 2

    async def step(self, what: str, work: Awaitable[object]) -> None:
        """Do `work` within its share. What is not done by then is cancelled, logged and left undone."""
        done = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self.share):
                await work
                done = True
        if not done:
            logger.error("%s: not done in time, and left undone", what)
