"""The worker, as its runs see it."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Incarnation(Protocol):
    """This worker, in successive epochs: being fenced ends an epoch."""

    @property
    def epoch(self) -> int:
        """The current epoch. 0 before the first registration."""
        ...

    @property
    def drain_event(self) -> asyncio.Event: ...

    async def ready(self) -> int:
        """Registers the worker if needed, and returns the epoch for admissions. Raises Draining, LeaseLost,
        StoreError."""
        ...

    def ready_at_once(self) -> int:
        """Returns the epoch for admissions if the worker is registered and admits; else 0, then await
        `ready`. Needs no task, timer or exception, because every admission calls it."""
        ...

    def check(self, epoch: int) -> None:
        """Raises LeaseLost if `epoch` may not act any more: a newer epoch exists, or its lease has expired.
        Called by every context call and every write of an owner; from any thread."""
        ...

    def fenced(self, epoch: int, why: str) -> None:
        """Drops every run and registers again, because the store reports `epoch` as dead. Idempotent. No
        effect if it is not the current epoch."""
        ...
