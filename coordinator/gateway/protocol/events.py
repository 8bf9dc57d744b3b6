"""Events of the protocol as JSON, each made from one event in the log of a run, or from the row of a run."""

from __future__ import annotations

import json
import time
from typing import NamedTuple, cast

from coordinator.event_log import OMITTED, Event
from coordinator.gateway.protocol.channels import ROOT, Address, Namespace, address_of
from coordinator.gateway.protocol.places import BEGIN, END, Place, seq_of_event, seq_of_interrupt
from coordinator.gateway.wire.documents import failure
from coordinator.gateway.wire.json import encoded, readable
from coordinator.schemas import Json, RunStatus
from stores.json_values import JsonObject
from stores.rows import RunRow
from stores.states import FAILED

EMITS_INPUT = "input"
"""The stream mode of runs that emit their interrupts themselves."""
_INTERRUPT = "__interrupt__"
_NODE = "__node"


class ProtocolEvent(NamedTuple):
    seq: int
    address: Address
    method: str
    body: bytes


class Missing(NamedTuple):
    """Events after `seq` existed, and are not available. `newest`: the thread has not reached `seq`, but this
    place; the stream continues behind it."""

    seq: int
    newest: int | None = None

    @property
    def body(self) -> bytes:
        if self.newest is None:
            text = "events of the thread are missing: read its state"
            return error_body(None, "resume_gap", text, since=self.seq)
        text = f"`since` is beyond the newest event of the thread, {self.newest}: read its state"
        return error_body(None, "resume_gap", text, since=self.seq, newest=self.newest)


def error_body(command_id: int | None, code: str, message: str, **fields: Json) -> bytes:
    return encoded({"type": "error", "id": command_id, "error": code, "message": message, **fields})


# -- from the log


def seq_in_log(event: Event) -> int:
    return seq_of_event(event.id.fence, event.id.number)


def body_in_log(event: Event) -> bytes:
    """Empty = the protocol does not have the event. Depends on nothing but the event: a client that comes
    back gets what it would have got."""
    address = address_of(event.mode)
    if address is None:
        return b""
    channel, name, namespace = address
    node: str | None = None
    if channel == "custom":
        data = _custom(name, readable(event.json))
    elif _is_plain(channel, event.json):
        data = readable(event.json)
    else:
        shown = _shown(channel, json.loads(event.json))
        if shown is None:
            return b""
        node, content = shown
        data = encoded(content)
    return _event(seq_in_log(event), channel, namespace, data, node=node)


def _is_plain(channel: str, text: str) -> bool:
    """The data can be passed on as they are."""
    if channel == "values":
        return _INTERRUPT not in text
    if channel in ("messages", "tools"):
        return text.startswith("{") and _NODE not in text
    return channel not in ("updates", "checkpoints")


def _shown(channel: str, data: Json) -> tuple[str | None, Json] | None:
    """Returns the node and the data as the protocol has them, None if it does not have the event."""
    if not isinstance(data, dict):
        return None  # messages in the form of the Runs API
    fields = cast("JsonObject", data)
    if channel == "checkpoints":
        return None, _checkpoint(fields)
    if channel in ("messages", "tools"):
        return fields.pop(_NODE, None), fields
    fields.pop(_INTERRUPT, None)
    if channel == "values":
        return None, fields
    if len(fields) != 1:
        return (None, fields) if fields else None
    node: str = next(iter(fields))
    update: Json = fields[node]
    return node, cast("JsonObject", update) if isinstance(update, dict) else {"value": update}


def _checkpoint(data: JsonObject) -> JsonObject:
    """The envelope of a checkpoint, also of one in the form of the Runs API."""
    if "id" in data:
        return data
    own, parent = cast("JsonObject", data.get("checkpoint") or {}), data.get("parent_checkpoint")
    metadata = cast("JsonObject", data.get("metadata") or {})
    envelope: JsonObject = {
        "id": own.get("checkpoint_id"),
        "step": metadata.get("step"),
        "source": metadata.get("source"),
    }
    return envelope if not parent else {**envelope, "parent_id": parent.get("checkpoint_id")}


def _custom(name: str | None, payload: bytes) -> bytes:
    named = b"" if name is None else b'"name":' + encoded(name) + b","
    return b"{" + named + b'"payload":' + payload + b"}"


def is_omitted(event: Event) -> bool:
    return event.mode == OMITTED


# -- from the row


def begun(row: RunRow, fence: int) -> ProtocolEvent:
    """The run, or a further attempt of it, has taken the thread with this fence."""
    data: JsonObject = {"event": "running", "graph_name": row.assistant_id}
    return _lifecycle(Place(fence, BEGIN).seq, data, row.started_at)


def ended(row: RunRow) -> list[ProtocolEvent]:
    """The end of a settled run, after its interrupts if it has not emitted them."""
    interrupts: list[JsonObject] = row.interrupts or []
    events: list[ProtocolEvent] = []
    if EMITS_INPUT not in (row.kwargs.get("stream_mode") or ()):
        for index, interrupt in enumerate(interrupts):
            data = {"interrupt_id": interrupt.get("id"), "payload": interrupt.get("value")}
            seq = seq_of_interrupt(row.fence, index)
            events.append(_requested(seq, f"{seq}.{index}", data, row.settled_at))
    data: JsonObject = {"event": _end_of(row, interrupts), "graph_name": row.assistant_id}
    if row.status in FAILED:
        data["error"] = failure(row.status, row.error)["message"]
    return [*events, _lifecycle(Place(row.fence, END).seq, data, row.settled_at)]


def _end_of(row: RunRow, interrupts: list[JsonObject]) -> str:
    if row.status in FAILED:
        return "failed"
    return "interrupted" if interrupts or row.status is RunStatus.interrupted else "completed"


def _lifecycle(seq: int, data: JsonObject, at: int | None) -> ProtocolEvent:
    return ProtocolEvent(seq, ROOT, "lifecycle", _event(seq, "lifecycle", (), encoded(data), at=at))


def _requested(seq: int, event_id: str, data: JsonObject, at: int | None) -> ProtocolEvent:
    body = _event(seq, "input", (), encoded(data), event_id=event_id, at=at)
    return ProtocolEvent(seq, Address("input", None, ()), "input.requested", body)


def method_of(channel: str) -> str:
    return "input.requested" if channel == "input" else channel


def _event(
    seq: int,
    channel: str,
    namespace: Namespace,
    data: bytes,
    *,
    node: str | None = None,
    event_id: str | None = None,
    at: int | None = None,
) -> bytes:
    """`at`: us since 1970; None = now."""
    shown = b"[]" if not namespace else encoded(list(namespace))
    sender = b"" if node is None else b',"node":' + encoded(node)
    return b'{"type":"event","event_id":"%s","seq":%d,"method":"%s","params":{"namespace":%s,"timestamp":%d,"data":%s%s}}' % (  # noqa: E501
        str(seq).encode() if event_id is None else event_id.encode(),
        seq,
        method_of(channel).encode(),
        shown,
        time.time_ns() // 1_000_000 if at is None else at // 1000,
        data,
        sender,
    )  # fmt: skip
