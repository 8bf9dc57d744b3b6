"""Notices an event loop that stands still, while it does: from a thread, because no task can."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any

from coordinator.clock import boottime
from coordinator.context import current_run
from coordinator.record import RunRecord

logger = logging.getLogger(__name__)

STALLED_AFTER = 2.0  # s without a turn
LOOK = 0.25  # s between two looks
RECALL = 5.0  # s
SHOWN = 8
"""How many frames a log line names, the innermost last."""


class StallWatch:
    """Asks the loop to answer, again and again, from a daemon thread. One log line for each stall names
    the run and the line of code in which the loop stands. `listeners` are called from that thread at every
    look with how long the loop has been standing (s; 0 = it turns): they must not block. `run_of_task`
    returns the run whose own task this is, if it is one; it is called from that thread, too."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = boottime,
        stalled_after: float = STALLED_AFTER,
        recall: float = RECALL,
    ) -> None:
        """`recall` (s): how long `lag` answers with the longest stall after its end."""
        self._clock, self._after, self._recall = clock, stalled_after, recall
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked: float | None = None
        self._logged = False
        self._lag = self._longest = 0.0
        self._ended = -math.inf
        self.listeners: list[Callable[[float], None]] = []
        self.run_of_task: Callable[[asyncio.Task[Any]], RunRecord | None] = _of_no_known_run

    @property
    def stalled_for(self) -> float:
        """How long the loop has not turned (s), from any thread; 0 below the limit."""
        asked = self._asked
        standing = 0.0 if asked is None else self._clock() - asked
        return standing if standing >= self._after else 0.0

    @property
    def lag(self) -> float:
        """How late the last answer came (s), or how late the one that is awaited is by now, or the longest
        stall that ended within `recall`."""
        recent = self._longest if self._clock() - self._ended < self._recall else 0.0
        return max(self._lag, self.stalled_for, recent)

    def start(self) -> None:
        """Watch the running loop, once."""
        if self._thread is None:
            self._loop, self._ident = asyncio.get_running_loop(), threading.get_ident()
            self._thread = threading.Thread(target=self._run, name="coordinator-stall-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            if self._asked is None:
                self._asked, self._logged = self._clock(), False
                try:
                    self._loop.call_soon_threadsafe(self._answer, self._asked)
                except RuntimeError:  # it is closed
                    return
            elif (standing := self.stalled_for) and not self._logged:
                self._logged = True
                logger.error("%s", self._told(standing))
            for listener in tuple(self.listeners):
                try:
                    listener(self.stalled_for)
                except Exception:
                    logger.exception("Listener %r of stalls failed", listener)

    def _answer(self, asked: float) -> None:
        now = self._clock()
        lag = now - asked
        if lag >= self._after:
            recent = self._longest if now - self._ended < self._recall else 0.0
            self._longest, self._ended = max(lag, recent), now
        self._lag, self._asked = lag, None

    def _told(self, standing: float) -> str:
        frame = sys._current_frames().get(self._ident)  # pyright: ignore[reportPrivateUsage] - documented
        frames = _frames(frame)
        names = [f"{each.f_code.co_filename}:{each.f_lineno} in {each.f_code.co_name}" for each in frames]
        return (
            f"The event loop has not turned for {standing:.1f} s: no run of this worker goes on, and none"
            f" can be cancelled. It stands in code {self._owner(frames)}, at {' > '.join(names[-SHOWN:])}"
        )

    def _owner(self, frames: list[FrameType]) -> str:
        task = asyncio.current_task(self._loop)
        context = _context_of(frames, task)
        found = None if context is None else context.get(current_run)
        run = found.run if found is not None else None
        if context is None and task is not None:
            run = self.run_of_task(task)
        if run is not None:
            return f"of run {run.run_id!r} on thread {run.thread_id!r}"
        return "whose run is not known" if context is None else "of no run"


def _frames(innermost: FrameType | None) -> list[FrameType]:
    """Of what the loop runs at this moment, outermost first; of the loop itself where it runs nothing."""
    frames: list[FrameType] = []
    while innermost is not None:
        frames.append(innermost)
        if isinstance(innermost.f_locals.get("self"), asyncio.Handle):
            break
        innermost = innermost.f_back
    return frames[::-1]


def _context_of(frames: list[FrameType], task: asyncio.Task[Any] | None) -> Context | None:
    """Of the callback, or step of a task, that the loop is in; None = not known. Handles of uvloop hide it,
    and tasks before Python 3.12 have no method that returns it."""
    handle = frames[0].f_locals.get("self") if frames else None
    if isinstance(handle, asyncio.Handle):
        context: Context | None = getattr(handle, "_context", None)
        if context is not None:
            return context
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    return None if get_context is None else get_context()


def _of_no_known_run(task: asyncio.Task[Any]) -> RunRecord | None:
    del task
