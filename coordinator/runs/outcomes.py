"""Outcomes of runs as the store takes them, and the texts of their errors."""

from __future__ import annotations

import asyncio
import traceback
from typing import Protocol, cast

from coordinator.runs.entry import Entry
from coordinator.schemas import CheckpointRef, Interrupt, Json, Output, RunStatus
from coordinator.schemas import Outcome as Reported
from stores.errors import StoreFull
from stores.json_faults import json_fault
from stores.rows import Outcome

LONGEST_QUOTE = 2000
"""Characters that are kept of an error text that the store has refused."""


def text_of(error: BaseException) -> str:
    """Returns the type and text of an exception; storable, even if its `__str__` fails."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - code of the caller's; the run must end all the same
        text = f"its text cannot be read ({type(failure).__name__})"
    return f"{type(error).__name__}: {text}".encode("utf-8", "backslashreplace").decode("utf-8")


class Copies(Protocol):
    """Returns what rows keep of values: see `references.copied`."""

    def __call__(self, values: Json, at: CheckpointRef | None, output: Output = None, /) -> Json: ...


def success_of(reported: object, copied: Copies) -> Outcome:
    """Returns the outcome that an assistant's `run` has returned. `copied` returns what rows keep of values.
    Raises TypeError if it is no Outcome, and any error of reading its attributes."""
    if not isinstance(reported, Reported):
        raise TypeError(f"an assistant's run() must return an Outcome, not {type(reported).__name__}")
    values = copied(reported.values, reported.checkpoint)
    result = reported.result
    if result is None or result is reported.values:
        at, output = reported.checkpoint, reported.output
        result = values if output is None else copied(reported.values, at, output)
    return Outcome(
        RunStatus.success,
        result=result,
        values=values,
        paused=reported.paused or reported.drained,
        interrupts=[_interrupt(interrupt) for interrupt in reported.interrupts] or None,
    )


def _interrupt(interrupt: object) -> Json:
    if not isinstance(interrupt, Interrupt):
        raise TypeError(f"its interrupts must be of type Interrupt, not {type(interrupt).__name__}")
    return interrupt.stored


def unreadable(error: BaseException) -> Outcome:
    """Returns the outcome of a run whose task has returned no Outcome."""
    return Outcome(RunStatus.error, f"The outcome of the run cannot be read: {text_of(error)}")


def refused(end: Outcome, error: BaseException) -> Outcome:
    """Returns what is written instead of `end`, which the store refused with `error`: no result, and a short
    ASCII text as error, which every store accepts."""
    if end.status is RunStatus.success and isinstance(error, (TypeError, ValueError)):
        text = f"The result of the run cannot be stored as JSON: {_fault_of(end) or text_of(error)}"
    elif end.status is RunStatus.success:
        text = f"The result of the run cannot be stored: {text_of(error)}"
    else:
        text = f"{_harmless(end.error or '')} (its error text was refused by the store: {text_of(error)})"
    status = RunStatus.error if end.status is RunStatus.success else end.status
    return Outcome(status, _harmless(text))


def is_harmless(end: Outcome) -> bool:
    """Returns whether every store accepts the contents of `end`: it has no values, result or interrupts, and
    its error text is as `refused` writes it."""
    text = end.error or ""
    return end.values is None and end.result is None and end.interrupts is None and text == _harmless(text)


def _fault_of(end: Outcome) -> str | None:
    parts = {"values": end.values, "result": end.result, "interrupts": end.interrupts}
    return next((fault for name, part in parts.items() if (fault := json_fault(name, part))), None)


def without_room(end: Outcome, error: StoreFull) -> Outcome:
    """Returns what is written instead of `end` if the store has no room for it."""
    status = RunStatus.error if end.status is RunStatus.success else end.status
    return Outcome(status, f"Its result could not be stored: {error.what}")


def _harmless(text: str) -> str:
    readable = text.replace("\0", "\\x00").encode("ascii", "backslashreplace").decode("ascii")
    return readable if len(readable) <= LONGEST_QUOTE else f"{readable[:LONGEST_QUOTE]} ..."


def fallback(entry: Entry) -> Outcome:
    """Returns the outcome of a run that ended without one: the decision in its record, else the warning that
    cancelled its task, else an error."""
    if not entry.open:
        return Outcome(entry.record.status, entry.record.error)
    if entry.work.warned is not None:
        return Outcome(entry.work.warned.status)
    return Outcome(RunStatus.error, "The run's task ended without an outcome")


def with_facts(outcome: Outcome, entry: Entry, log_end: int | None) -> Outcome:
    """Returns the outcome with what its worker knows of the end: its times, and where its event log ends."""
    work = entry.work
    return Outcome(*outcome[:6], work.delivered_at, work.stopped_at, log_end)  # _replace takes 4 us


def row_of(record: object, status: RunStatus, error: str | None) -> dict[str, Json]:
    """Returns the fields of a record for `put`, with the status and error of the call that had no row."""
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
    """Returns the stacks of its task and of the tasks that it tracked. Thread jobs are named without a
    stack."""
    tracked = sorted(entry.work.tracked or (), key=repr)
    work = [entry.record.task, *tracked] if entry.record.task_active else tracked
    return "\n".join(f"{future!r}\n{_frames(future)}" for future in work)


def _frames(future: object) -> str:
    """Returns the stack, outermost frame first, down to the innermost await. `Task.print_stack` has only the
    outermost frame."""
    frames: list[traceback.FrameSummary] = []
    task = cast("asyncio.Task[object] | None", future if isinstance(future, asyncio.Task) else None)
    awaited = None if task is None else cast("object", task.get_coro())
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            frames += traceback.StackSummary.extract([(frame, frame.f_lineno)])
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(traceback.format_list(frames))
