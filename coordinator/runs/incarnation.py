"""What runs need to know of the worker that they are in."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Incarnation(Protocol):
    """This worker, as long as it has not been fenced."""

    @property
    def epoch(self) -> int:
        """The current epoch. 0 before the first registration."""
        ...

    @property
    def drain_event(self) -> asyncio.Event: ...

    async def ready(self) -> int:
        """Register if need be; the epoch to admit with. Raises Draining, LeaseLost, StoreError."""
        ...

    def ready_at_once(self) -> int:
        """The epoch to admit with, where there is nothing to wait for; else 0: ask `ready`. Without a task, a
        timer or an error: every admission asks."""
        ...

    def check(self, epoch: int) -> None:
        """Raise LeaseLost where `epoch` may not act any more: another one has followed, or its lease is
        past the deadline. Inline in every context call and owner's write; from any thread."""
        ...

    def fenced(self, epoch: int, why: str) -> None:
        """The store says that `epoch` is dead: drop every run, register anew. Idempotent, and of no
        effect where that epoch is not the current one."""
        ...
