"""Signals of the supervisor: the first one drains, the second one ends the grace, and the process exits in
time."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from coordinator.workers.deadline import GONE
from stores.tasks import begin_soon

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Draining(Protocol):
    """What a signal drains: `manager.worker`, or all workers of this process as one."""

    @property
    def grace(self) -> float: ...
    async def drain(self) -> None: ...
    def end_grace(self) -> None: ...


class Departure:
    """What has become of the signals. `asked`: the first has come. `drained`: no run is left here, and the
    program may go; until then it should go on answering (cancels work all the while)."""

    def __init__(self, worker: Draining, end: Callable[[int], object]) -> None:
        self._worker, self._end = worker, end
        self._task: asyncio.Task[None] | None = None
        self._backstop: threading.Timer | None = None
        self.asked, self.drained = asyncio.Event(), asyncio.Event()

    def received(self, number: int) -> None:
        """On the event loop."""
        if self._task is None:
            self.asked.set()
            self._arm(self._worker.grace + GONE, number)
            self._task = begin_soon(self._drain())
        else:
            self._worker.end_grace()
            self._arm(GONE, number)

    async def serving(self, work: Coroutine[Any, Any, object]) -> None:
        """Do `work` until it ends by itself or the worker is drained, which ends it."""
        working, drained = begin_soon(work), begin_soon(self.drained.wait())
        await asyncio.wait((working, drained), return_when=asyncio.FIRST_COMPLETED)
        for task in (working, drained):
            task.cancel()

    async def _drain(self) -> None:
        try:
            await self._worker.drain()
        finally:
            self.drained.set()

    def _arm(self, seconds: float, number: int) -> None:
        """A thread, because what is in the way may be the event loop, a task that swallows its cancel, or
        a job in a thread pool, for each of which the interpreter itself would wait for ever."""
        if self._backstop is not None:
            self._backstop.cancel()
        self._backstop = threading.Timer(seconds, self._end, (128 + number,))
        self._backstop.daemon = True
        self._backstop.start()


@contextmanager
def draining_on_signals(
    worker: Draining,
    *,
    signals: Iterable[signal.Signals] = SIGNALS,
    end: Callable[[int], object] | None = None,
) -> Generator[Departure]:
    """Within the block, the first of `signals` drains `worker` (`manager.worker`) and every further one ends
    its grace.

    From the main thread, on a running event loop. For programs that end afterwards: the backstop that
    `end` (by default: stacks to stderr, then `os._exit`) stays armed when the block is left. The exit
    status is then 128 and the signal's number.
    """
    loop, departure = asyncio.get_running_loop(), Departure(worker, end or _exit)
    undo = [_handle(loop, number, departure) for number in signals]
    try:
        yield departure
    finally:
        for restore in undo:
            restore()


def _handle(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, departure: Departure
) -> Callable[[], object]:
    before = signal.getsignal(number)
    try:
        loop.add_signal_handler(number, departure.received, number)
    except NotImplementedError:  # Windows

        def receive(_number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(departure.received, number)

        signal.signal(number, receive)
        return lambda: signal.signal(number, before)

    def restore() -> None:
        loop.remove_signal_handler(number)
        signal.signal(number, before)

    return restore


def _exit(status: int) -> None:
    """Nothing here may block: not the log, whose lock may be held by what is in the way."""
    with suppress(Exception):
        os.write(2, b"coordinator: not gone in time, ending the process. Its threads:\n")
        faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(status)
