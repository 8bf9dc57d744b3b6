"""Checkpoints as the tables of PostgreSQL have them: values of channels are rows of their own, except for
single values (a number, a text) that jsonb can hold.

The loose types of LangGraph's interface end here and in `savers.records`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS

from coordinator.langgraph.savers.postgres import jsonb
from coordinator.langgraph.savers.records import (
    CheckpointKey,
    Write,
    decode_writes,
    next_version,
    parent_config,
)

_EMPTY = "empty"
"""The type of a channel's version that has no value."""
_SENDS_IN_VALUES = 4
"""From this version of the format on, pending sends are values of a channel."""


class CheckpointRow(NamedTuple):
    key: CheckpointKey
    parent_id: str | None
    checkpoint: str
    metadata: str


class Blob(NamedTuple):
    channel: str
    version: str
    type: str
    blob: bytes | None


def encode(
    serde: SerializerProtocol, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> tuple[str, list[Blob]]:
    """The checkpoint as JSON, and the values of its channels that have a new version and are not in it."""
    inline: dict[str, object] = {}
    blobs: list[Blob] = []
    for channel, value in checkpoint["channel_values"].items():
        if jsonb.accepts(value):
            inline[channel] = value
            continue
        if _is_snapshot(value):
            inline[channel] = True  # marks that the row of the value is a snapshot
        if channel in new_versions:
            blobs.append(Blob(channel, str(new_versions[channel]), *serde.dumps_typed(value)))
    return json.dumps({**checkpoint, "channel_values": inline}), blobs


def _is_snapshot(value: object) -> bool:
    """Of a DeltaChannel. The class is private in LangGraph."""
    return type(value).__name__ == "_DeltaSnapshot" and type(value).__module__.startswith("langgraph.")


def encode_metadata(config: RunnableConfig, metadata: CheckpointMetadata) -> str:
    return jsonb.dumps(get_serializable_checkpoint_metadata(config, metadata))


class StoredCheckpoint(NamedTuple):
    """`blobs`: channel, type and value. `sends`: pending sends of the parent, of an old format."""

    key: CheckpointKey
    parent_id: str | None
    checkpoint: str
    metadata: str
    blobs: Sequence[tuple[bytes, bytes, bytes]] | None
    writes: Sequence[tuple[bytes, bytes, bytes, bytes, bytes, bytes]] | None
    sends: Sequence[tuple[bytes, bytes]] | None

    def decode(self, serde: SerializerProtocol) -> CheckpointTuple:
        content = cast("dict[str, object]", json.loads(self.checkpoint))
        values = dict(cast("Mapping[str, object]", content.get("channel_values") or {}))
        for channel, type_, blob in self.blobs or ():
            if type_.decode() != _EMPTY:
                values[channel.decode()] = serde.loads_typed((type_.decode(), blob))
        checkpoint = cast("Checkpoint", {**content, "channel_values": values})
        if self.sends and checkpoint["v"] < _SENDS_IN_VALUES:
            self._add_sends(serde, checkpoint)
        return CheckpointTuple(
            self.key.config,
            checkpoint,
            cast("CheckpointMetadata", json.loads(self.metadata)),
            parent_config(self.key, self.parent_id),
            decode_writes(serde, _writes(self.writes or ())),
        )

    def _add_sends(self, serde: SerializerProtocol, checkpoint: Checkpoint) -> None:
        versions = checkpoint["channel_versions"]
        sends = [serde.loads_typed((type_.decode(), blob)) for type_, blob in self.sends or ()]
        checkpoint["channel_values"][TASKS] = sends
        versions[TASKS] = max(map(str, versions.values())) if versions else next_version(None)


def _writes(rows: Iterable[tuple[bytes, bytes, bytes, bytes, bytes, bytes]]) -> Iterable[Write]:
    for task_id, task_path, idx, channel, type_, blob in rows:
        yield Write(task_id.decode(), task_path.decode(), int(idx), channel.decode(), type_.decode(), blob)
