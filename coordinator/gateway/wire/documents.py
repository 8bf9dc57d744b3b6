"""Response documents: threads, runs, states and assistants, built from rows.

Fields that LangGraph's API does not have come last; its clients ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, create_model

from coordinator.assistants.registry import Assistants
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire.bodies import JsonObject, RunStatus, Strategy, ThreadStatus
from coordinator.gateway.wire.json import Json
from coordinator.record import RunRecord
from coordinator.schemas import CheckpointRef, Description, Interrupt, StateView
from stores.rows import RunRow, ThreadRow
from stores.times import iso

ALWAYS = "1970-01-01T00:00:00+00:00"
"""Creation time of all assistants. They are part of the code, and every worker must return the same time."""


_NAMED_ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*): (.*)", re.DOTALL)
"""The stored form of an exception of a run's code."""


class Problem(LazyModel):
    """The body of every error response. `detail` is text, or the list of mistakes in a request body."""

    detail: str | list[JsonObject]
    run_id: str | None = Field(default=None, description="With 409: the run that holds the thread")


class Run(LazyModel):
    run_id: str
    thread_id: str
    assistant_id: str | None
    created_at: str
    updated_at: str
    status: RunStatus | str = Field(description="Workers of newer versions may have further values")
    metadata: JsonObject
    kwargs: JsonObject = Field(description="The request; in lists only if it is selected")
    multitask_strategy: Strategy | str
    cancel_reason: str | None
    cancelling: bool = Field(description="The cancel is committed, but the task has not stopped yet")
    error: str | None


RunField = Literal[
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "cancel_reason",
]
"""What of it a client may select."""


class TtlInfo(LazyModel):
    strategy: str
    ttl_minutes: float
    expires_at: str


class InterruptDocument(LazyModel):
    """An interrupt of a paused run."""

    value: Json
    id: str | None = None


class Thread(LazyModel):
    thread_id: str
    created_at: str
    updated_at: str
    state_updated_at: str
    metadata: JsonObject
    status: ThreadStatus
    config: JsonObject
    context: JsonObject
    values: Json
    interrupts: dict[str, list[InterruptDocument]]
    error: str | None


class ThreadWithTtl(Thread):
    ttl: TtlInfo | None = Field(default=None, description="Only with `include=ttl`")


class CheckpointDocument(LazyModel):
    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None
    checkpoint_map: Json = None


class State(LazyModel):
    values: Json
    next: list[str]
    tasks: list[Json]
    checkpoint: CheckpointDocument
    metadata: JsonObject
    created_at: str | None
    parent_checkpoint: CheckpointDocument | None
    interrupts: list[InterruptDocument]


class StateUpdated(LazyModel):
    checkpoint: CheckpointDocument


class AssistantDocument(LazyModel):
    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: JsonObject
    context: JsonObject
    created_at: str
    updated_at: str
    metadata: JsonObject
    version: int


class Schemas(LazyModel):
    graph_id: str
    input_schema: Json
    output_schema: Json
    state_schema: Json
    config_schema: Json
    context_schema: Json


# Any: definitions of fields, as pydantic.create_model takes them.
def parts_of(model: type[LazyModel], **extra_fields: Any) -> type[LazyModel]:
    """Returns a copy of `model` with optional fields, for responses with selected fields."""
    fields: dict[str, Any] = {  # Any: as pydantic.create_model takes them
        name: (field.annotation, Field(default=None)) for name, field in model.model_fields.items()
    }
    return create_model(f"{model.__name__}Parts", __base__=LazyModel, **fields, **extra_fields)


RunParts = parts_of(Run)
ThreadParts = parts_of(Thread, extracted=(JsonObject, Field(default=None)))
StateParts = parts_of(State)
AssistantParts = parts_of(AssistantDocument)


def parts(document: JsonObject, select: Collection[str] | None) -> JsonObject:
    """Returns the selected fields of the document; all of them if `select` is None."""
    if select is None:
        return document
    return {name: value for name, value in document.items() if name in select}


def failure(status: str, error: str | None) -> dict[str, str]:
    """Returns the name and the text of a run's error, for `__error__` and for the event `error`."""
    text = error or f"the run ended with {status}"
    match = None if status == "timeout" else _NAMED_ERROR.fullmatch(text)
    if match is None:
        return {"error": "TimeoutError" if status == "timeout" else "RunError", "message": text}
    return {"error": match[1], "message": match[2]}


# -- built from rows


def _iso(micros: int) -> str:
    return iso(micros) or ALWAYS


# The documents of runs and threads are dictionaries with all fields of their models, which only describe
# them: to validate a page of what the server itself has built would take longer than everything else.


_ORDER: JsonObject = dict.fromkeys(Run.model_fields)
_OF_RECORD = tuple(name for name in Run.model_fields if name in RunRecord.__dataclass_fields__)
_OF_ROW = tuple(name for name in Run.model_fields if name in RunRow.__dataclass_fields__)


def run_created(record: RunRecord, assistants: Assistants) -> JsonObject:
    """Returns the `Run` as it was admitted, also if it has changed since."""
    return {
        **_ORDER,
        **{name: getattr(record, name) for name in _OF_RECORD},
        "assistant_id": assistants.client_id(record.assistant_id),
        "updated_at": record.created_at,
        "status": "pending",
        "cancel_reason": None,
        "cancelling": False,
        "error": None,
    }


def run_document(row: RunRow, assistants: Assistants, *, kwargs: bool = True) -> JsonObject:
    """Returns the `Run`."""
    return {
        **_ORDER,
        **{name: getattr(row, name) for name in _OF_ROW},
        "assistant_id": assistants.client_id(row.assistant_id),
        "updated_at": _iso(row.updated_at),
        "status": row.shown_status.value,
        "kwargs": row.kwargs if kwargs else {},
        "cancel_reason": row.cancel_reason or (row.cancel_cause and row.cancel_cause.value),
        "cancelling": row.cancelling,
    }


def thread_document(row: ThreadRow) -> JsonObject:
    """Returns the `Thread`."""
    return {
        "thread_id": row.thread_id,
        "created_at": _iso(row.created_at),
        "updated_at": _iso(row.updated_at),
        "state_updated_at": _iso(row.state_updated_at),
        "metadata": row.metadata,
        "status": row.status,
        "config": {},
        "context": {},
        "values": row.values,
        "interrupts": {row.thread_id: row.interrupts} if row.interrupts else {},
        "error": row.error,
    }


def thread_with_ttl(row: ThreadRow, *, include_ttl: bool) -> JsonObject:
    """Returns the `ThreadWithTtl`."""
    document = thread_document(row)
    if include_ttl:
        document["ttl"] = None
        if row.ttl_ms is not None and row.expires_at is not None:
            minutes = row.ttl_ms / 60_000
            expires_at = _iso(row.expires_at)
            document["ttl"] = {"strategy": "delete", "ttl_minutes": minutes, "expires_at": expires_at}
    return document


def state_document(thread_id: str, view: StateView) -> State:
    return State(
        values={} if view.values is None else view.values,
        next=list(view.next),
        tasks=list(view.tasks),
        checkpoint=checkpoint_document(thread_id, view.checkpoint or CheckpointRef()),
        metadata=dict(view.metadata),
        created_at=view.created_at,
        parent_checkpoint=None if view.parent is None else checkpoint_document(thread_id, view.parent),
        interrupts=[interrupt_document(interrupt) for interrupt in view.interrupts],
    )


def state_parts(state: State, select: Collection[str] | None) -> JsonObject:
    """Returns the selected fields of the state. `values.<key>` selects one key of the values."""
    if select is None:
        return state.model_dump()
    fields = {"values" if name.startswith("values.") else name for name in select}
    selected = parts(state.model_dump(include=fields), fields)
    keys = {name.removeprefix("values.") for name in select if name.startswith("values.")}
    if keys and "values" not in select:
        selected["values"] = _pick(state.values, keys)
    return selected


def _pick(values: Json, keys: Collection[str]) -> JsonObject:
    return {key: values[key] for key in keys if key in values} if isinstance(values, dict) else {}


def checkpoint_document(thread_id: str, ref: CheckpointRef) -> CheckpointDocument:
    return CheckpointDocument(thread_id=thread_id, **asdict(ref))


def interrupt_document(interrupt: Interrupt) -> InterruptDocument:
    return InterruptDocument(value=interrupt.value, id=interrupt.id)


def assistant_document(name: str, description: str | None, assistants: Assistants) -> AssistantDocument:
    return AssistantDocument(
        assistant_id=assistants.id_of(name),
        graph_id=name,
        name=name,
        description=description,
        config={},
        context={},
        created_at=ALWAYS,
        updated_at=ALWAYS,
        metadata={"created_by": "system"},
        version=1,
    )


def schemas_document(name: str, description: Description) -> Schemas:
    return Schemas(
        graph_id=name,
        input_schema=description.input_schema,
        output_schema=description.output_schema,
        state_schema=description.state_schema,
        config_schema=description.config_schema,
        context_schema=description.context_schema,
    )
