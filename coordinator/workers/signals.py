"""Signals of a supervisor: the first starts a drain, the next ends its grace. The process exits in time."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from coordinator.workers.deadline import EXIT_WITHIN
from stores.tasks import begin_soon

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@runtime_checkable
class Draining(Protocol):
    """The methods that signals call, of `manager.worker` or of all workers of the process."""

    @property
    def grace(self) -> float: ...
    async def drain(self) -> None: ...
    def end_grace(self) -> None: ...


class Shutdown:
    """The state of the shutdown. `requested` is set by the first signal. `drained` is set when this worker
    has no run left; then the program may exit. Until then it should continue to serve requests: cancels
    are accepted throughout."""

    def __init__(self, worker: Draining, end: Callable[[int], object]) -> None:
        self._worker, self._end = worker, end
        self._task: asyncio.Task[None] | None = None
        self._backstop: threading.Timer | None = None
        self.requested, self.drained = asyncio.Event(), asyncio.Event()

    def received(self, number: int) -> None:
        """Handles a signal. Must be called on the event loop."""
        if self._task is None:
            self.requested.set()
            self._arm(self._worker.grace + EXIT_WITHIN, number)
            self._task = begin_soon(self._drain())
        else:
            self._worker.end_grace()
            self._arm(EXIT_WITHIN, number)

    async def serving(self, work: Coroutine[object, object, object]) -> None:
        """Runs `work` until it returns or the worker is drained, whichever comes first; then cancels it."""
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
        """Ends the process after `seconds`, unless armed again. Uses a thread, because the exit may be
        blocked by the event loop, by a task that swallows its cancel, or by a job in a thread pool: the
        interpreter would wait for each of these for ever."""
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
) -> Generator[Shutdown]:
    """Within the block, the first of `signals` drains `worker` (`manager.worker`), and each further one ends
    its grace.

    Must be called from the main thread, on a running event loop. The backstop stays armed after the block: it
    calls `end` (default: writes all stacks to stderr, then `os._exit`) with the exit status, which is 128
    plus the signal's number. So use it only in programs that exit afterwards. Raises TypeError for an object
    that cannot be drained, such as the manager itself.
    """
    _check_drainable(worker)
    loop, shutdown = asyncio.get_running_loop(), Shutdown(worker, end or _exit)
    undo = [_handle(loop, number, shutdown) for number in signals]
    try:
        yield shutdown
    finally:
        for restore in undo:
            restore()


def _check_drainable(worker: object) -> None:
    if not isinstance(worker, Draining):
        raise TypeError(f"draining_on_signals needs `manager.worker`, not a {type(worker).__name__}")


def _handle(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, shutdown: Shutdown
) -> Callable[[], object]:
    before = signal.getsignal(number)
    try:
        loop.add_signal_handler(number, shutdown.received, number)
    except NotImplementedError:  # Windows

        def receive(_number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(shutdown.received, number)

        signal.signal(number, receive)
        return lambda: signal.signal(number, before)

    def restore() -> None:
        loop.remove_signal_handler(number)
        signal.signal(number, before)

    return restore


def _exit(status: int) -> None:
    """Must not block, so it does not log: the blocked code may hold a lock of the log."""
    with suppress(Exception):
        os.write(2, b"coordinator: the process did not exit in time and is ended now. Its threads:\n")
        faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(status)
