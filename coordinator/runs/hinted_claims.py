"""Claims and ticks that peers ask for by hints. Hints may be repeated or forged in any number, and each claim
is a write transaction: so their number is bounded by what is under way, not by what was heard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.runs.jobs import Jobs

AT_ONCE = 64
"""Threads. Of more one tick reads which are free for this worker."""
_ALL = None
"""In place of a thread: everything of this worker."""


class HintedClaims:
    """`claim(thread_id)` claims one thread; `tick()` finds every thread that is free for this worker."""

    def __init__(
        self, jobs: Jobs, *, claim: Callable[[str], Awaitable[object]], tick: Callable[[], Awaitable[object]]
    ) -> None:
        self._jobs, self._claim, self._tick = jobs, claim, tick
        self._under_way: dict[str | None, bool] = {}
        """Is it to be done once more, because a hint came meanwhile?"""

    def thread(self, thread_id: str) -> None:
        """The thread may be free: claim it, once more after a claim that is under way."""
        if thread_id not in self._under_way and len(self._under_way) >= AT_ONCE:
            self.everything()
        else:
            self._begin(thread_id, f"claiming thread {thread_id!r}")

    def everything(self) -> None:
        """Tick, once more after a tick that is under way."""
        self._begin(_ALL, "a tick asked for by a peer")

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
