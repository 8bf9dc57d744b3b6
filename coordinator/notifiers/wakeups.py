"""The wake-up that both notifiers hand out, and those who hold one for the same thread."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


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


class Bells:
    """Who watches one thread. Some follow a run's log as well: they hear of its events, the others do not."""

    def __init__(self) -> None:
        self._bells: dict[Bell, Hashable] = {}
        self._newest: dict[Hashable, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._bells)

    def add(self, bell: Bell, log: Hashable = None) -> None:
        self._bells[bell] = log

    def discard(self, bell: Bell) -> None:
        log = self._bells.pop(bell, None)
        if log is not None and log not in self._bells.values():
            self._newest.pop(log, None)

    def ring(self) -> None:
        for bell in self._bells:
            bell.ring()

    def hint(self, log: Hashable, event_id: tuple[int, int]) -> None:
        """The log has grown up to this id. A hint comes twice where its sender lives here: directly, and
        through the transport; the second one costs nobody a look."""
        if event_id > self._newest.get(log, (-1, -1)):
            followers = [bell for bell, followed in self._bells.items() if followed == log]
            if followers:
                self._newest[log] = event_id
            for bell in followers:
                bell.ring()
