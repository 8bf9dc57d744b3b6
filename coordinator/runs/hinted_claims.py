"""Claims and ticks that are requested by hints of peers. Hints may be repeated or forged in any number, and
each claim is a write transaction: the number of concurrent claims is bounded, whatever the number of
hints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.runs.jobs import Jobs

AT_ONCE = 64
"""Concurrent claims. Beyond that, one tick reads which threads are free for this worker."""
_ALL = None
"""Key of the tick, in place of a thread."""


class HintedClaims:
    """`claim(thread_id)` claims one thread; `tick()` claims every thread that is free for this worker."""

    def __init__(
        self, jobs: Jobs, *, claim: Callable[[str], Awaitable[object]], tick: Callable[[], Awaitable[object]]
    ) -> None:
        self._jobs, self._claim, self._tick = jobs, claim, tick
        self._under_way: dict[str | None, bool] = {}
        """Whether to repeat the claim or tick, because a hint arrived meanwhile."""

    def thread(self, thread_id: str) -> None:
        """Claims the thread; once more if a claim of it is in flight."""
        if thread_id not in self._under_way and len(self._under_way) >= AT_ONCE:
            self.everything()
        else:
            self._begin(thread_id, f"claiming thread {thread_id!r}")

    def everything(self) -> None:
        """Ticks; once more if a tick is in flight."""
        self._begin(_ALL, "a tick requested by a peer")

    def _begin(self, what: str | None, name: str) -> None:
        if what in self._under_way:
            self._under_way[what] = True
        else:
            self._under_way[what] = False
            self._jobs.spawn(self._work(what), name)

    async def _work(self, what: str | None) -> None:
        try:
            again = True
            while again:
                self._under_way[what] = False
                await (self._tick() if what is None else self._claim(what))
                again = self._under_way[what]
        finally:
            del self._under_way[what]
