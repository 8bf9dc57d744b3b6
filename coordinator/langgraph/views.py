"""From the snapshots and schemas of a graph to the views of the port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Interrupt as EngineInterrupt
from langgraph.types import PregelTask, StateSnapshot
from pydantic import TypeAdapter, create_model

from coordinator.langgraph.encoding import as_json, interrupt_fields
from coordinator.langgraph.graph import Graph
from coordinator.schemas import CheckpointRef, Description, Interrupt, Json, Output, StateView
from stores.json_values import JsonMapping, JsonObject

logger = logging.getLogger(__name__)

INTERRUPT = "__interrupt__"
_UNFINISHED = frozenset({INTERRUPT, "__resume__", "__error__"})
"""Channels that a task writes to while it has not ended: its questions, and the answers that it has."""


def view_of(snapshot: StateSnapshot, thread_id: str) -> StateView:
    return StateView(
        values=as_json(snapshot.values),
        next=tuple(snapshot.next),
        checkpoint=ref_of(cast("JsonMapping", snapshot.config)),
        parent=None
        if snapshot.parent_config is None
        else ref_of(cast("JsonMapping", snapshot.parent_config)),
        metadata={**as_json(snapshot.metadata or {}), "thread_id": thread_id},
        created_at=snapshot.created_at,
        tasks=tuple(_task(task, thread_id) for task in snapshot.tasks),
        interrupts=interrupts_of(snapshot),
    )


def output_of(graph: Graph) -> Output:
    """Return the names of the values that the graph returns; None if these are all of its state."""
    state, output = graph.stream_channels_asis, graph.output_channels
    if isinstance(state, str) or output == state:
        return None
    if isinstance(output, str):
        return output
    return None if set(state) <= set(output) else tuple(output)


def interrupts_of(snapshot: StateSnapshot) -> tuple[Interrupt, ...]:
    """The open questions, each with its task."""
    return tuple(_interrupt(one, task.id) for task in snapshot.tasks for one in task.interrupts)


def with_written(interrupts: Sequence[Interrupt], saved: CheckpointTuple | None) -> tuple[Interrupt, ...]:
    """Add the open questions among the writes of a checkpoint: the tasks of a snapshot lack the nodes that a
    command went to."""
    writes = (saved and saved.pending_writes) or ()
    ended = {task for task, channel, _ in writes if channel not in _UNFINISHED}
    known = {one.id for one in interrupts}
    written = [
        _interrupt(one, task)
        for task, channel, value in writes
        if channel == INTERRUPT and task not in ended
        for one in cast("Sequence[EngineInterrupt]", value if isinstance(value, Sequence) else (value,))
    ]
    return (*interrupts, *(one for one in written if one.id not in known))


def _interrupt(interrupt: EngineInterrupt, task_id: str) -> Interrupt:
    schema = as_json(interrupt.response_schema)
    return Interrupt(as_json(interrupt.value), interrupt.id, schema, task_id)


def ref_of(config: JsonMapping) -> CheckpointRef:
    keys: JsonMapping = config["configurable"]
    return CheckpointRef(keys.get("checkpoint_id"), keys.get("checkpoint_ns", ""), keys.get("checkpoint_map"))


def checkpoint_of(config: JsonMapping | None) -> JsonObject | None:
    """Return the keys of a config that name a checkpoint, which are those that clients may see."""
    if not config:
        return None
    keys: JsonMapping = config.get("configurable") or {}
    shown = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
    return {key: keys[key] for key in shown if key in keys}


def error_text(error: object) -> str:
    """Return the error of a task, which the checkpoint has as an exception or as its `repr`."""
    return error if isinstance(error, str) else repr(error)


def _task(task: PregelTask, thread_id: str) -> JsonObject:
    checkpoint: Json = None
    state: Json = None
    if isinstance(task.state, StateSnapshot):
        state = _nested(task.state, thread_id)
        checkpoint = state["checkpoint"]
    elif task.state is not None:
        checkpoint = checkpoint_of(cast("JsonMapping", task.state))
    return {
        "id": task.id,
        "name": task.name,
        "path": as_json(task._asdict()["path"]),
        "error": None if task.error is None else error_text(task.error),
        "interrupts": [as_json(interrupt_fields(one)) for one in task.interrupts],
        "checkpoint": checkpoint,
        "state": state,
        "result": as_json(task.result),
    }


def _nested(snapshot: StateSnapshot, thread_id: str) -> JsonObject:
    """The state of a subgraph, as clients see states."""
    own = checkpoint_of(cast("JsonMapping", snapshot.config))
    parent = checkpoint_of(cast("JsonMapping | None", snapshot.parent_config))
    return {
        "values": as_json(snapshot.values),
        "next": list(snapshot.next),
        "tasks": [_task(task, thread_id) for task in snapshot.tasks],
        "metadata": as_json(snapshot.metadata or {}),
        "created_at": snapshot.created_at,
        "checkpoint": own,
        "parent_checkpoint": parent,
        "interrupts": [as_json(interrupt_fields(one)) for one in snapshot.interrupts],
        "checkpoint_id": None if own is None else own.get("checkpoint_id"),
        "parent_checkpoint_id": None if parent is None else parent.get("checkpoint_id"),
    }


# -- descriptions


async def description_of(graph: Graph, text: str | None, *, xray: bool | int = False) -> Description:
    """A schema that cannot be expressed as JSON schema is missing."""
    return Description(
        text=text,
        **_schemas(graph),
        drawing=as_json((await graph.aget_graph(xray=xray)).to_json()),
    )


def schemas_of(graph: Graph) -> Description:
    return Description(**_schemas(graph))


def _schemas(graph: Graph) -> dict[str, Json]:
    context = _schema(graph.get_context_jsonschema)
    return {
        "input_schema": _schema(graph.get_input_jsonschema),
        "output_schema": _schema(graph.get_output_jsonschema),
        "state_schema": _schema(lambda: _state_schema(graph)),
        "config_schema": context,
        "context_schema": context,
    }


def _schema(make: Callable[[], object]) -> Json:
    try:
        return as_json(make())
    except Exception as error:  # noqa: BLE001 - types of the user's, of any kind
        logger.debug("a type of a graph has no JSON schema: %s", error)
        return None


def _state_schema(graph: Graph) -> object:
    """All channels that states contain; a channel without a JSON schema accepts anything."""
    fields: dict[str, Json] = {}
    for name in graph.stream_channels_list:
        kind: Json = getattr(graph.channels[name], "UpdateType", None)
        try:
            TypeAdapter(kind).json_schema()
        except Exception:  # noqa: BLE001 - a type of the user's, of any kind
            kind = Json
        fields[name] = (kind, None)
    return create_model(f"{graph.get_name()}State", **fields).model_json_schema()
