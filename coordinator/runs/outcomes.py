"""How a run ended, in the words of the store and of people."""

from __future__ import annotations

import asyncio
import traceback
from typing import cast

from coordinator.runs.registry import Entry
from coordinator.schemas import Json, RunStatus
from stores.rows import Outcome


def fallback(entry: Entry) -> Outcome:
    """For a run that ended without an outcome of its own: the decision that the record shows, or what its
    task was told to stop for."""
    if not entry.open:
        return Outcome(entry.record.status, entry.record.error)
    if entry.warned is not None:
        return Outcome(entry.warned.status)
    return Outcome(RunStatus.error, "The run's task ended without an outcome")


def with_times(outcome: Outcome, entry: Entry) -> Outcome:
    return Outcome(*outcome[:6], entry.delivered_at, entry.stopped_at)  # _replace takes 4 us


def row_of(record: object, status: RunStatus, error: str | None) -> dict[str, Json]:
    """The fields of a record for `put`, with the status and error of the call that found no row."""
    names = (
        "thread_id",
        "assistant_id",
        "multitask_strategy",
        "metadata",
        "kwargs",
        "created_at",
        "model_name",
    )
    fields: dict[str, Json] = {name: getattr(record, name) for name in names}
    fields.update(status=status.value, error=error)
    if (user_id := getattr(record, "user_id", None)) is not None:
        fields["user_id"] = user_id
    return fields


def stack_of(entry: Entry) -> str:
    """Where its task, and the tasks that it tracked, stand. Of a thread's job only that there is one."""
    tracked = sorted(entry.tracked, key=repr)
    work = [entry.record.task, *tracked] if entry.record.task_active else tracked
    return "\n".join(f"{future!r}\n{_frames(future)}" for future in work)


def _frames(future: object) -> str:
    """Outermost first, down to what it awaits; `Task.print_stack` shows the outermost alone."""
    frames: list[traceback.FrameSummary] = []
    task = cast("asyncio.Task[object] | None", future if isinstance(future, asyncio.Task) else None)
    awaited = None if task is None else cast("object", task.get_coro())
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            frames += traceback.StackSummary.extract([(frame, frame.f_lineno)])
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(traceback.format_list(frames))
