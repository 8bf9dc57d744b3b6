"""Detects a blocked event loop while it is blocked, from a thread, because no task could."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType

from coordinator.clock import boottime
from coordinator.context import current_run
from coordinator.record import RunRecord

logger = logging.getLogger(__name__)

STALLED_AFTER = 2.0  # s without a turn
PROBE_INTERVAL = 0.25  # s
RECALL = 5.0  # s
MAX_FRAMES = 8
"""Number of frames in a log line, the innermost last."""


class StallWatch:
    """Probes the loop from a daemon thread: it schedules a callback, and measures when the loop runs it. Logs
    each stall once, with the run and the source line in which the loop is blocked.

    `listeners` are called from that thread after every probe with the duration of the stall (s; 0 = none);
    they must not block. `run_of_task` returns the run that a task executes, or None; also called from that
    thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = boottime,
        stalled_after: float = STALLED_AFTER,
        recall: float = RECALL,
    ) -> None:
        """`recall`: time after the end of a stall during which `lag` still returns its length (s)."""
        self._clock, self._after, self._recall = clock, stalled_after, recall
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._scheduled_at: float | None = None
        self._logged = False
        self._lag = self._longest = 0.0
        self._ended = -math.inf
        self.listeners: list[Callable[[float], None]] = []
        self.run_of_task: Callable[[asyncio.Task[object]], RunRecord | None] = _no_run_of_task

    @property
    def stalled_for(self) -> float:
        """Duration of the current stall (s); 0 below the limit. May be read from any thread."""
        scheduled_at = self._scheduled_at
        blocked_for = 0.0 if scheduled_at is None else self._clock() - scheduled_at
        return blocked_for if blocked_for >= self._after else 0.0

    @property
    def lag(self) -> float:
        """The longest of these (s): the delay of the last callback, the current stall, and the longest stall
        that ended within `recall`."""
        recent = self._longest if self._clock() - self._ended < self._recall else 0.0
        return max(self._lag, self.stalled_for, recent)

    def start(self) -> None:
        """Starts to watch the running loop. Idempotent."""
        if self._thread is None:
            self._loop, self._ident = asyncio.get_running_loop(), threading.get_ident()
            self._thread = threading.Thread(target=self._run, name="coordinator-stall-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_INTERVAL):
            if self._scheduled_at is None:
                self._scheduled_at, self._logged = self._clock(), False
                try:
                    self._loop.call_soon_threadsafe(self._ran, self._scheduled_at)
                except RuntimeError:  # the loop is closed
                    return
            elif (blocked_for := self.stalled_for) and not self._logged:
                self._logged = True
                logger.error("%s", self._describe(blocked_for))
            for listener in tuple(self.listeners):
                try:
                    listener(self.stalled_for)
                except Exception:
                    logger.exception(
                        "Stall listener %r failed; it is called again after the next probe", listener
                    )

    def _ran(self, scheduled_at: float) -> None:
        now = self._clock()
        lag = now - scheduled_at
        if lag >= self._after:
            recent = self._longest if now - self._ended < self._recall else 0.0
            self._longest, self._ended = max(lag, recent), now
        self._lag, self._scheduled_at = lag, None

    def _describe(self, blocked_for: float) -> str:
        innermost = sys._current_frames().get(self._ident)  # pyright: ignore[reportPrivateUsage] - documented
        frames = _frames(innermost)
        names = [f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" for frame in frames]
        return (
            f"The event loop has been blocked for {blocked_for:.1f} s: no run of this worker makes progress"
            f" or can be cancelled. It is blocked in code {self._owner(frames)}, at"
            f" {' > '.join(names[-MAX_FRAMES:])}"
        )

    def _owner(self, frames: list[FrameType]) -> str:
        task = asyncio.current_task(self._loop)
        context = _context_of(frames, task)
        run_context = None if context is None else context.get(current_run)
        if context is not None and run_context is not None:
            return _named(run_context.run, run_context.node_in(context))
        run = None if context is not None or task is None else self.run_of_task(task)
        if run is not None:
            return _named(run, None)
        return "of an unknown run" if context is None else "of no run"


def _named(run: RunRecord, node: str | None) -> str:
    parts = {"assistant": run.assistant_id, "node": node}
    names = ", ".join(f"{part} {name!r}" for part, name in parts.items() if name is not None)
    return f"of run {run.run_id!r}{f' ({names})' if names else ''} on thread {run.thread_id!r}"


def _frames(innermost: FrameType | None) -> list[FrameType]:
    """Returns the frames of the callback that the loop executes, outermost first; the loop's own frames if it
    executes none."""
    frames: list[FrameType] = []
    while innermost is not None:
        frames.append(innermost)
        if isinstance(innermost.f_locals.get("self"), asyncio.Handle):
            break
        innermost = innermost.f_back
    return frames[::-1]


def _context_of(frames: list[FrameType], task: asyncio.Task[object] | None) -> Context | None:
    """Returns the context of the callback or task step that the loop executes, or None if unknown. Handles of
    uvloop hide it, and tasks before Python 3.12, which have no `get_context`, show it only to the garbage
    collector, before the contexts of their callbacks."""
    handle = frames[0].f_locals.get("self") if frames else None
    if isinstance(handle, asyncio.Handle):
        context: Context | None = getattr(handle, "_context", None)
        if context is not None:
            return context
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get_context is not None:
        return get_context()
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)


def _no_run_of_task(task: asyncio.Task[object]) -> RunRecord | None:
    del task
