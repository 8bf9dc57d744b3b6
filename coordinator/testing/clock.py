"""The clock of a running event loop, which a test moves ahead."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from contextvars import Context
from itertools import count
from types import TracebackType
from typing import NamedTuple, Self

from coordinator import clock as system
from coordinator.arguments import MAX_TIME_LIMIT
from coordinator.errors import InvalidArgument

MAX_TURNS = 100_000
"""Turns of the event loop without a moment in which nothing is ready."""

_PATCHED = ("time", "call_at", "call_soon", "call_soon_threadsafe")


class _Turn(NamedTuple):
    """One who waits until nothing is ready to run. The least goes first; the others wait for the next such
    moment. So time stands until all who wait at one moment have gone on, and then moves to the nearest
    target."""

    target: float
    """-inf: of `rest`, and of an `advance` that begins."""
    newest: int
    """Negative, so that a caller that was called by another's code goes before that one."""


def check_span(argument: str, value: object, unit: float = 1.0) -> float:
    """Returns seconds, of a number of units of so many seconds."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= MAX_TIME_LIMIT / unit
    ):
        why = "must be a number, 0 or more (a clock is not set back), of at most ten years"
        raise InvalidArgument(argument, f"{why}, not {value!r:.40}")
    return value * unit


class Clock:
    """While it is entered, the running loop's time is the system's plus what `advance` has added.

    Timers of the loop (`asyncio.sleep`, `asyncio.timeout`, `loop.call_later`) follow it. Threads, sockets and
    `time.sleep` do not, and `advance` does not wait for them. Leaving it restores the system's time: timers
    that were set meanwhile and are still pending fire later by what was added.
    Raises RuntimeError where the loop does not allow it: it must be one of asyncio's, not uvloop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._system_time = self._loop.time
        self._ahead = 0.0
        self._calls = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._turns: list[_Turn] = []
        self._numbers = count()
        self._replaced: dict[str, object] = {}
        self._slow = self._loop.slow_callback_duration

    # -- what workers measure with

    def boottime(self) -> float:
        """Seconds."""
        return system.boottime() + self._ahead

    def monotonic(self) -> float:
        """Seconds."""
        return self._system_time() + self._ahead

    def wall(self) -> int:
        """Microseconds since 1970."""
        return system.wall() + round(self._ahead * 1e6)

    # -- what a test does with it

    async def advance(self, seconds: float) -> None:
        """Move ahead, from timer to timer: each fires at its own time, and what it starts has come to rest
        before the next one fires. Calls at the same time are counted from their own moments and return each
        at its own time. Raises InvalidArgument for a negative time, and for more than ten years."""
        check_span("seconds", seconds)
        await self.rest()  # what was begun just before sets its timers first
        turn = _Turn(self.monotonic() + seconds, next(self._numbers))
        at = -math.inf
        while at < turn.target:
            await self._take(turn)
            due = self._next_timer()
            at = turn.target if due is None else min(due, turn.target)
            self._move_to(at)
        await self._take(turn)

    async def rest(self) -> None:
        """Return when nothing on the loop is ready to run: every task waits for a timer, a socket or a
        thread. Raises RuntimeError for code that never waits."""
        await self._take(_Turn(-math.inf, -next(self._numbers)))

    async def _take(self, turn: _Turn) -> None:
        """Return when nothing is ready to run and it is this one's turn."""
        self._turns.append(turn)
        try:
            quiet = busy = 0
            while busy < MAX_TURNS:
                before = self._calls
                await asyncio.sleep(0)
                # Each who waits makes one call a turn. A timer that is due runs behind it: two turns must be
                # quiet.
                quiet = quiet + 1 if self._calls - before <= len(self._turns) else 0
                busy = 0 if quiet >= 2 else busy + 1
                if quiet >= 2 and turn == min(self._turns):
                    return
        finally:
            self._turns.remove(turn)
        raise RuntimeError(f"the event loop was busy for {MAX_TURNS} turns: some code never waits")

    def _move_to(self, moment: float) -> None:
        self._calls += 1  # timers become due: for the others who wait this turn is not quiet
        self._ahead = max(self._ahead, moment - self._system_time())

    def _next_timer(self) -> float | None:
        """When the first timer is due that is not due yet."""
        now = self.monotonic()
        while self._timers and (self._timers[0][2].cancelled() or self._timers[0][0] <= now):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    # -- the loop's side

    def __enter__(self) -> Self:
        loop, own = self._loop, vars(self._loop)
        if not isinstance(loop, asyncio.BaseEventLoop):  # timers of uvloop do not call `time`
            name = type(loop).__module__
            raise RuntimeError(f"the clock of {name} cannot be advanced: use asyncio's loop")  # noqa: TRY004 - the loop is no argument of the caller
        self._replaced = {name: own[name] for name in _PATCHED if name in own}
        call_at, call_soon, threadsafe = loop.call_at, loop.call_soon, loop.call_soon_threadsafe

        def counting_call_at(
            when: float, callback: Callable[..., object], *args: object, context: Context | None = None
        ) -> asyncio.TimerHandle:
            timer = call_at(when, callback, *args, context=context)
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
            return timer

        def counting_call_soon(
            callback: Callable[..., object], *args: object, context: Context | None = None
        ) -> asyncio.Handle:
            self._calls += 1
            return call_soon(callback, *args, context=context)

        def counting_threadsafe(
            callback: Callable[..., object], *args: object, context: Context | None = None
        ) -> asyncio.Handle:
            self._calls += 1
            return threadsafe(callback, *args, context=context)

        patches = (self.monotonic, counting_call_at, counting_call_soon, counting_threadsafe)
        for name, patch in zip(_PATCHED, patches, strict=True):
            setattr(loop, name, patch)
        loop.slow_callback_duration = math.inf  # in debug mode a step that moves the clock would be reported
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.slow_callback_duration = self._slow
        for name in _PATCHED:
            if name in self._replaced:
                setattr(self._loop, name, self._replaced[name])
            else:
                delattr(self._loop, name)
