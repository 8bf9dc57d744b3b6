"""An event loop in virtual time: one for each simulated process, all driven by one `Schedule`.

A process sees what asyncio promises: its callbacks in the order in which they were scheduled. Processes
share nothing but what they send through the world's ports, so each runs until it has nothing left to do,
and the only order that matters is that in which the world answers them.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

MOST_TURNS = 50_000
"""Callbacks in one go. A process that needs more is in a loop that never waits."""


class Livelock(Exception):
    """A process went on and on without ever waiting for anything."""


class Handle:
    """Stands in for asyncio's handles, which cost three times as much to make."""

    __slots__ = ("_when", "args", "callback", "context", "off")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float = 0.0,
    ) -> None:
        self.callback, self.args, self._when = callback, args, when
        self.context = contextvars.copy_context() if context is None else context
        self.off = False

    def cancel(self) -> None:
        self.off = True

    def cancelled(self) -> bool:
        return self.off

    def when(self) -> float:
        return self._when


class NumberedTask(asyncio.Task[Any]):
    """Its hash is its number, so that sets of tasks have the same order in every replay. The number is given
    before the constructor runs, which already puts the task into asyncio's own set."""

    number: int

    def __new__(cls, *args: Any, **kwargs: Any) -> NumberedTask:  # noqa: ARG004 - as the constructor has them
        task = super().__new__(cls)
        task.number = kwargs["loop"].number()
        return task

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class NumberedFuture(asyncio.Future[Any]):
    number = 0

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class Schedule:
    """What happens when, in seconds of virtual time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._heap: list[tuple[float, int, ProcessLoop | None, Handle]] = []
        self._numbers = count(1)

    def number(self) -> int:
        return next(self._numbers)

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Something that happens in the world, outside every process."""
        return self.push(None, Handle(callback, args, _WORLD, max(when, self.now)))

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        return self.at(self.now + delay, callback, *args)

    def push(self, loop: ProcessLoop | None, handle: Handle) -> Handle:
        heapq.heappush(self._heap, (handle.when(), next(self._numbers), loop, handle))
        return handle

    def step(self) -> bool:
        """Do what comes next; False = nothing does."""
        while self._heap:
            when, _, loop, handle = heapq.heappop(self._heap)
            if handle.off or (loop is not None and loop.dead):
                continue
            self.now = max(self.now, when)
            if loop is None:
                handle.callback(*handle.args)
            else:
                loop.hand(handle)
            return True
        return False


_WORLD = contextvars.Context()


class ProcessLoop(asyncio.AbstractEventLoop):
    """The loop of one process. `dead`: it was killed, nothing of it ever runs again. `stopped`: paused by a
    signal, arriving callbacks are kept until it resumes."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._ready: deque[Handle] = deque()
        self._kept: list[Handle] = []
        self.tasks: list[NumberedTask] = []
        self.complaints: list[str] = []
        self.dead = self.stopped = False

    # -- what the world does with it

    def hand(self, handle: Handle) -> None:
        """Something for this process: a timer, an answer, a message."""
        if self.dead:
            return
        if self.stopped:
            self._kept.append(handle)
            return
        self._ready.append(handle)
        self._spin()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        self.hand(Handle(callback, args, None))

    def go_on(self, shuffle: Callable[[list[Handle]], None]) -> None:
        """After a pause: answers and timers are all there, in whatever order the system has them, and tasks
        may take a step between any two of them."""
        if not self.stopped or self.dead:
            return
        self.stopped = False
        kept, self._kept = self._kept, []
        shuffle(kept)
        for handle in kept:
            self.hand(handle)
        self._spin()

    def kill(self) -> None:
        self.dead = True
        self._ready.clear()
        self._kept.clear()

    def _spin(self) -> None:
        ready = self._ready
        events._set_running_loop(self)
        turns = 0
        try:
            while ready and not self.stopped:
                handle = ready.popleft()
                if handle.off:
                    continue
                turns += 1
                if turns > MOST_TURNS:
                    raise Livelock(f"{handle.callback!r}")
                try:
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio's own loop does
                    self.complaints.append(f"callback {handle.callback!r} raised {error!r}")
        finally:
            events._set_running_loop(None)

    # -- the interface of an asyncio loop

    def call_soon(  # pyright: ignore[reportIncompatibleMethodOverride] - a handle of our own
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context)
        if not self.dead:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # pyright: ignore[reportAssignmentType] - there are no threads

    def call_later(  # pyright: ignore[reportIncompatibleMethodOverride] - a handle of our own
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        return self.call_at(self._schedule.now + delay, callback, *args, context=context)

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride] - a handle of our own
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        return self._schedule.push(self, Handle(callback, args, context, when))

    def time(self) -> float:
        return self._schedule.now

    def create_future(self) -> asyncio.Future[Any]:
        future = NumberedFuture(loop=self)
        future.number = self._schedule.number()
        return future

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride] - a task of our own
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        task = NumberedTask(coro, loop=self, name=name or "", context=context)
        self.tasks.append(task)
        return task

    def get_task_factory(self) -> None:
        return None

    def number(self) -> int:
        return self._schedule.number()

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            error = context.get("exception")
            self.complaints.append(f"{context.get('message')}: {error!r}")

    def run_in_executor(  # pyright: ignore[reportIncompatibleMethodOverride] - it refuses any call
        self, *args: Any
    ) -> Any:
        raise AssertionError("a simulated process has no threads")
