"""Response documents: threads, runs, states and assistants, built from rows.

Fields that LangGraph's API does not have come last; its clients ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, create_model

from coordinator.assistants.configured import client_assistant
from coordinator.assistants.registry import Assistants
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire.bodies import JsonObject, RunStatus, Strategy, ThreadStatus
from coordinator.gateway.wire.json import Json
from coordinator.record import RunRecord
from coordinator.runs import timeouts
from coordinator.schemas import CheckpointRef, Description, Interrupt, StateView
from stores.assistants import AssistantRow
from stores.rows import RunRow, ThreadRow
from stores.times import iso

ALWAYS = "1970-01-01T00:00:00+00:00"
"""Creation time of all assistants. They are part of the code, and every worker must return the same time."""


_NAMED_ERROR = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*): (.*)", re.DOTALL)
"""The stored form of an exception of a run's code."""


class Mistake(LazyModel):
    """`loc`: the part of the request (`body`, `query`, `path`, `header`), and the field within it."""

    type: str
    loc: list[str | int]
    msg: str


class Problem(LazyModel):
    """The body of every error response."""

    detail: str
    mistakes: list[Mistake] | None = Field(default=None, description="With 422: the parts of `detail`")
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
    position: int | None = Field(
        description="Of a pending run that is read alone: from 1, in the queue of its thread, without runs of"
        " other threads; or among the runs that wait for a place of its worker"
    )


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
    response_schema: Json = Field(default=None, description="Of the answer; absent if it has none")


class Failure(LazyModel):
    error: str = Field(description="The type of the exception")
    message: str


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
    error: Failure | None = Field(description="Of the last run, if it has failed")


class ThreadWithTtl(Thread):
    ttl: TtlInfo | None = Field(default=None, description="Only with `include=ttl`")


class PrunedThreads(LazyModel):
    pruned_count: int = Field(description="Threads that were removed, or lost their former states")


class CheckpointDocument(LazyModel):
    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None
    checkpoint_map: Json = Field(default=None, description="Of a subgraph's state; absent otherwise")


class State(LazyModel):
    values: Json
    next: list[str]
    tasks: list[Json]
    checkpoint: CheckpointDocument
    metadata: JsonObject
    created_at: str | None
    parent_checkpoint: CheckpointDocument | None
    interrupts: list[InterruptDocument]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


class StateUpdated(LazyModel):
    checkpoint: CheckpointDocument
    configurable: CheckpointDocument = Field(description="The same, as the config of a graph has it")
    checkpoint_id: str | None


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
        "assistant_id": client_assistant(record.metadata) or assistants.client_id(record.assistant_id),
        "updated_at": record.created_at,
        "status": "pending",
        "cancel_reason": None,
        "cancelling": False,
        "error": None,
        "position": None,
    }


def run_document(
    row: RunRow, assistants: Assistants, *, kwargs: bool = True, position: int | None = None
) -> JsonObject:
    """Returns the `Run`."""
    return {
        **_ORDER,
        **{name: getattr(row, name) for name in _OF_ROW},
        "assistant_id": client_assistant(row.metadata) or assistants.client_id(row.assistant_id),
        "updated_at": _iso(row.updated_at),
        "status": row.shown_status.value,
        "kwargs": row.kwargs if kwargs else {},
        "cancel_reason": row.cancel_reason or (row.cancel_cause and row.cancel_cause.value),
        "cancelling": row.cancelling,
        "position": position,
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
        "interrupts": _by_task(row),
        "error": _failure_of(row),
    }


def _failure_of(row: ThreadRow) -> dict[str, str] | None:
    """Returns the `Failure` of a thread whose last run has failed."""
    if row.status != "error":
        return None
    return failure("timeout" if row.error in timeouts.REASONS else "error", row.error)


def _by_task(row: ThreadRow) -> JsonObject:
    """Returns the interrupts by the task that is interrupted; of an assistant without tasks by the thread's
    id."""
    tasks: dict[str, list[Json]] = {}
    for interrupt in row.interrupts or ():
        tasks.setdefault(interrupt.get("task_id") or row.thread_id, []).append(interrupt_parts(interrupt))
    return tasks


def interrupt_parts(stored: JsonObject) -> JsonObject:
    """Returns the `InterruptDocument` of an interrupt in a row, without fields that it does not have."""
    return {name: stored[name] for name in InterruptDocument.model_fields if name in stored}


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
        checkpoint_id=None if view.checkpoint is None else view.checkpoint.checkpoint_id,
        parent_checkpoint_id=None if view.parent is None else view.parent.checkpoint_id,
    )


def state_updated(thread_id: str, ref: CheckpointRef) -> StateUpdated:
    checkpoint = checkpoint_document(thread_id, ref)
    return StateUpdated(checkpoint=checkpoint, configurable=checkpoint, checkpoint_id=ref.checkpoint_id)


def state_parts(state: State, select: Collection[str] | None) -> JsonObject:
    """Returns the selected fields of the state. `values.<key>` selects one key of the values."""
    fields = None if select is None else {"values" if name.startswith("values.") else name for name in select}
    selected = state.model_dump(include=fields, exclude_unset=True)
    if select is None or fields is None:
        return selected
    selected = parts(selected, fields)
    keys = {name.removeprefix("values.") for name in select if name.startswith("values.")}
    if keys and "values" not in select:
        selected["values"] = _pick(state.values, keys)
    return selected


def _pick(values: Json, keys: Collection[str]) -> JsonObject:
    return {key: values[key] for key in keys if key in values} if isinstance(values, dict) else {}


def checkpoint_document(thread_id: str, ref: CheckpointRef) -> CheckpointDocument:
    document = CheckpointDocument(
        thread_id=thread_id, checkpoint_ns=ref.checkpoint_ns, checkpoint_id=ref.checkpoint_id
    )
    if ref.checkpoint_map is not None:
        document.checkpoint_map = ref.checkpoint_map
    return document


def interrupt_document(interrupt: Interrupt) -> InterruptDocument:
    document = InterruptDocument(value=interrupt.value, id=interrupt.id)
    if interrupt.response_schema is not None:
        document.response_schema = interrupt.response_schema
    return document


def assistant_document(name: str, description: str | None, assistants: Assistants) -> AssistantDocument:
    return AssistantDocument(
        assistant_id=assistants.id_of(name),
        graph_id=assistants.graph_of(name),
        name=name,
        description=description,
        config={},
        context={},
        created_at=ALWAYS,
        updated_at=ALWAYS,
        metadata={"created_by": "system"},
        version=1,
    )


def client_assistant_document(row: AssistantRow) -> AssistantDocument:
    """The context is also in `config.configurable`, and the other way round: clients read either."""
    configurable = row.config.get("configurable") or row.context
    return AssistantDocument(
        assistant_id=row.assistant_id,
        graph_id=row.graph_id,
        name=row.name,
        description=row.description,
        config={**row.config, "configurable": configurable} if configurable else row.config,
        context=row.context or configurable,
        created_at=_iso(row.created_at),
        updated_at=_iso(row.updated_at),
        metadata=row.metadata,
        version=row.version,
    )


def schemas_document(graph_id: str, description: Description) -> Schemas:
    return Schemas(
        graph_id=graph_id,
        input_schema=description.input_schema,
        output_schema=description.output_schema,
        state_schema=description.state_schema,
        config_schema=description.config_schema,
        context_schema=description.context_schema,
    )
