"""Opens the storages of thread state while the manager is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from coordinator.assistants.ports import ThreadStates


class OpenStorages:
    """`kinds()` returns the storages, which are complete when they are opened."""

    def __init__(self, kinds: Callable[[], tuple[ThreadStates, ...]]) -> None:
        self._kinds = kinds
        self._stack: AsyncExitStack | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Enter `opened` of each storage. Idempotent. If one raises, those before it are left."""
        async with self._lock:
            if self._stack is not None:
                return
            async with AsyncExitStack() as stack:
                for states in self._kinds():
                    await stack.enter_async_context(states.opened())
                self._stack = stack.pop_all()

    async def aclose(self) -> None:
        """Leave `opened` of each storage, the last one first. Idempotent."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
