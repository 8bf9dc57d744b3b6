"""The loop's default executor. It records which run submitted each thread job, and which jobs outlive their
run.

A thread cannot be stopped, but the await of its future can. So a cancelled run would appear stopped while one
of its jobs still executes, and the next run on the thread would overlap it.
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
    """Tracks every job that a run submits (`asyncio.to_thread`, `run_in_executor(None, …)`), and every job
    that such a job submits: the run's thread is not free before they have ended, for at most
    `force_after`."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(size, thread_name_prefix="coordinator")
        self.size, self._loop = size, loop
        # Any: futures of any result; their type is invariant.
        self._run_of_job: dict[Future[Any], RunContext | None] = {}

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
        self._run_of_job[future] = run
        future.add_done_callback(self._discard)
        if run is not None and not run.closed:
            self._track(run, future)
        return future

    def _track(self, run: RunContext, future: Future[T]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # submitted by a job, which is tracked itself and ends after this call
            with suppress(RuntimeError):  # the loop is closed, and no run is left
                self._loop.call_soon_threadsafe(run.track, future)
        else:
            run.track(future)

    def _discard(self, future: Future[Any]) -> None:  # Any: of any result
        self._run_of_job.pop(future, None)

    @property
    def jobs(self) -> int:
        """Number of jobs that execute or wait for a thread."""
        return len(self._run_of_job)

    @property
    def outliving(self) -> tuple[str, ...]:
        """The run id of each job whose run's code has returned."""
        runs = tuple(self._run_of_job.values())
        return tuple(run.run.run_id for run in runs if run is not None and run.over)
