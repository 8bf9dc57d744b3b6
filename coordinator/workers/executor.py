"""The loop's default executor: it knows whose thread jobs it runs, and which of them outlive their run.

A thread cannot be stopped. The await of its future can, so a cancelled run looks over while a job of its
still works, and the next run on the thread would work beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from coordinator.context import RunContext, current_run

P = ParamSpec("P")
T = TypeVar("T")


class TrackingExecutor(ThreadPoolExecutor):
    """Whatever a run gives to it (`asyncio.to_thread`, `run_in_executor(None, …)`) is tracked: the thread is
    not free before it is over, at most for `force_after`. Also what such a job gives to it in its turn."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(size, thread_name_prefix="coordinator")
        self.size, self._loop = size, loop
        self._of: dict[Future[Any], RunContext | None] = {}

    @classmethod
    def install(cls, size: int) -> TrackingExecutor:
        """Make one the default executor of the running loop."""
        loop = asyncio.get_running_loop()
        executor = cls(size, loop)
        loop.set_default_executor(executor)
        return executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        run = current_run.get()
        future = super().submit(fn, *args, **kwargs)
        self._of[future] = run
        future.add_done_callback(self._over)
        if run is not None and not run.closed:
            self._track(run, future)
        return future

    def _track(self, run: RunContext, future: Future[T]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # from a job: that is tracked, and its end is told after this
            with suppress(RuntimeError):  # the loop is closed, and every run with it
                self._loop.call_soon_threadsafe(run.track, future)
        else:
            run.track(future)

    def _over(self, future: Future[Any]) -> None:
        self._of.pop(future, None)

    @property
    def jobs(self) -> int:
        """At work, or waiting for a thread."""
        return len(self._of)

    @property
    def outliving(self) -> tuple[str, ...]:
        """For each job whose run's code is over: the run."""
        runs = tuple(self._of.values())
        return tuple(run.run.run_id for run in runs if run is not None and run.over)
