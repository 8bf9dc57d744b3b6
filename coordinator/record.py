"""RunRecord: a run as an object of its caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from coordinator.schemas import Cause, DisconnectMode, RunStatus, User
from stores.json_values import JsonMapping, JsonObject
from stores.rows import COUNTERS, MESSAGES
from stores.spec import COLUMN_NAMES, RunSpec, value_in
from stores.states import Stored

Member = TypeVar("Member", bound=Stored)

PROGRESS_FIELDS = COUNTERS + MESSAGES
COMPLETION_FIELDS = (*PROGRESS_FIELDS, "error", "model_name")


RunTask: TypeAlias = asyncio.Task[Any]
"""The task of a run. Any: what the code of users returns."""


@dataclass
class RunRecord:
    """A run as returned to callers. Mutable; `store_only` marks a record that was read from the store.

    A caller that creates the task itself assigns it to `task` before it starts. A task created by `launch` is
    removed from `task` when the run has settled, if its result is large.
    """

    run_id: str
    thread_id: str
    assistant_id: str | None
    status: RunStatus
    on_disconnect: DisconnectMode
    multitask_strategy: str = "reject"
    metadata: JsonObject = field(default_factory=JsonObject)
    kwargs: JsonObject = field(default_factory=JsonObject)
    user_id: str | None = None
    parent_run_id: str | None = None
    created_at: str = ""
    updated_at: str = ""
    task: RunTask | None = field(default=None, repr=False)
    abort_event: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    abort_action: str = "interrupt"
    """Of a cancelled run, see `abort_cause`; the default also of others."""
    error: str | None = None
    model_name: str | None = None
    store_only: bool = False
    already_admitted: bool = False
    """Another call admitted this run under the same idempotency key: do not start it again."""
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_tokens: int = 0
    llm_call_count: int = 0
    lead_agent_tokens: int = 0
    subagent_tokens: int = 0
    middleware_tokens: int = 0
    message_count: int = 0
    last_ai_message: str | None = None
    first_human_message: str | None = None
    abort_cause: Cause | None = None
    abort_reason: str | None = None
    abort_actor: str | None = None
    """Why the run was cancelled, as its row has it; `abort_cause` is None if it was not. With cause
    `superseded`, the reason names the new run."""
    user: User | None = field(default=None, repr=False)
    """For the run's code, with permissions and attributes. None in system scope, and if `store_only`."""
    extra: JsonObject = field(default_factory=JsonObject)
    """Fields of the caller's own, see `RunManager.update_run_completion`."""

    @property
    def task_active(self) -> bool:
        return self.task is not None and not self.task.done()

    def take(self, fields: JsonMapping, known: tuple[str, ...]) -> None:
        """Copy the known fields that are not None."""
        for name in known:
            if fields.get(name) is not None:
                setattr(self, name, fields[name])


def record_of(run_id: str, spec: RunSpec, created_at: str) -> RunRecord:
    """A run that was just admitted. Field by field: by name it would take 3 us of a run's 200."""
    return RunRecord(
        run_id=run_id,
        thread_id=spec.thread_id,
        assistant_id=spec.assistant_id,
        status=RunStatus.pending,
        on_disconnect=DisconnectMode(spec.on_disconnect),
        multitask_strategy=spec.multitask_strategy,
        metadata=spec.metadata,
        kwargs=spec.kwargs,
        user_id=spec.user_id,
        parent_run_id=spec.parent_run_id,
        created_at=created_at,
        updated_at=created_at,
        model_name=spec.model_name,
        extra=dict(spec.extra),
    )


def record_from_row(row: JsonMapping) -> RunRecord:
    """Build a read-only record from a stored row. A NULL status means pending, any other NULL the default
    of RunSpec.

    Raises KeyError or ValueError for an invalid row, including unknown values of an enum. A value of a newer
    program is accepted if the store returns it as an enum member.
    """
    shared = {name: value_in(row, name) for name in _SHARED}
    shared["thread_id"] = row["thread_id"]
    shared["on_disconnect"] = _member(DisconnectMode, shared["on_disconnect"])
    record = RunRecord(
        row["run_id"],
        status=_member(RunStatus, row.get("status") or RunStatus.pending),
        created_at=row.get("created_at") or "",
        updated_at=row.get("updated_at") or "",
        error=row.get("error"),
        store_only=True,
        **shared,
    )
    if row.get("cancel_action"):
        record.abort_action = row["cancel_action"]
        record.abort_cause = Cause.stored(row["cancel_cause"]) if row.get("cancel_cause") else None
        record.abort_reason, record.abort_actor = row.get("cancel_reason"), row.get("cancel_actor")
    record.take(row, PROGRESS_FIELDS)
    return record


_SHARED = tuple(name for name in COLUMN_NAMES if name in RunRecord.__dataclass_fields__)
"""Fields that a record has in common with a spec."""


def _member(kind: type[Member], value: str) -> Member:
    return value if isinstance(value, kind) else kind(value)
