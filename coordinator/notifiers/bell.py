"""The wake-up that both notifiers hand out."""

from __future__ import annotations

import asyncio


class Bell:
    """A `Wakeup`: rung any number of times before `wait`, it wakes once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    def hush(self) -> None:
        """Forget what was rung so far."""
        self._rung.clear()

    async def wait(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            # Rung in the very turn in which the time ran out: that counts.
            if not self._rung.is_set():
                return False
        self._rung.clear()
        return True
