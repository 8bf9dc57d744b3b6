"""Memory and descriptors of workers, and the lag of this process, which must not count as a slow response."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_EVERY = 0.02


def memory(pids: Iterable[int]) -> int:
    """Returns the memory (bytes) of all processes together."""
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pids: Iterable[int]) -> Counter[str]:
    """Counts descriptors by target; all sockets count as one target."""
    counts: Counter[str] = Counter()
    for pid in pids:
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                counts[str(one.readlink()).partition(":[")[0]] += 1
    return counts


class Lag:
    """The latency of this event loop in the last minute."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=int(60 / _EVERY))

    def since(self, time: float) -> float:
        """Returns the total lag (s)."""
        return sum(late for at, late in self._late if at >= time)

    @asynccontextmanager
    async def measured(self) -> AsyncGenerator[Lag]:
        task = asyncio.create_task(self._measure())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            if (late := loop.time() - due) > _EVERY:
                self._late.append((loop.time(), late))
