"""How a run ended, in the words of the store and of people."""

from __future__ import annotations

import asyncio
import io

from coordinator.runs.registry import Entry
from coordinator.schemas import Json, RunStatus
from stores.rows import Outcome


def fallback(entry: Entry) -> Outcome:
    """For a run that ended without an outcome of its own: the decision that the record shows."""
    if entry.open:
        return Outcome(RunStatus.error, "The run's task ended without an outcome")
    return Outcome(entry.record.status, entry.record.error)


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


def stack_of(task: asyncio.Task[object] | None) -> str:
    if task is None:
        return "no task"
    text = io.StringIO()
    task.print_stack(file=text)
    return text.getvalue()
