"""Checkpoints and writes of LangGraph as values of a database, and back.

The loose types of LangGraph's interface end in this module.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer


class CheckpointKey(NamedTuple):
    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str

    @property
    def config(self) -> RunnableConfig:
        return {"configurable": self._asdict()}


class Position(NamedTuple):
    """What a config refers to. `checkpoint_id` None: the newest one. `checkpoint_ns` None: all of them."""

    thread_id: str
    checkpoint_ns: str | None
    checkpoint_id: str | None

    @property
    def namespace(self) -> str:
        return self.checkpoint_ns or ""

    def key(self, checkpoint_id: str | None = None) -> CheckpointKey:
        """Of the config's checkpoint, or of `checkpoint_id`."""
        return CheckpointKey(self.thread_id, self.namespace, str(checkpoint_id or self.checkpoint_id))


def position_of(config: RunnableConfig) -> Position:
    """Raises KeyError if the config has no thread."""
    configurable = _configurable(config)
    namespace = configurable.get("checkpoint_ns")
    return Position(
        str(configurable["thread_id"]),
        None if namespace is None else str(namespace),
        checkpoint_id_of(config),
    )


def checkpoint_id_of(config: RunnableConfig) -> str | None:
    checkpoint_id = _configurable(config).get("checkpoint_id")
    return None if not checkpoint_id else str(checkpoint_id)


def _configurable(config: RunnableConfig) -> Mapping[str, object]:
    return cast("Mapping[str, object]", config.get("configurable", {}))


class Write(NamedTuple):
    """A write of a task, as the tables have it."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    type: str
    value: bytes


def encode_writes(
    serde: SerializerProtocol, writes: Sequence[tuple[str, object]], task_id: str, task_path: str
) -> list[Write]:
    return [
        Write(task_id, task_path, WRITES_IDX_MAP.get(channel, at), channel, *serde.dumps_typed(value))
        for at, (channel, value) in enumerate(writes)
    ]


def replaces(writes: Sequence[tuple[str, object]]) -> bool:
    """Whether the writes replace earlier ones of the task: errors, interrupts and answers do. Others stay as
    they were written first."""
    return all(channel in WRITES_IDX_MAP for channel, _ in writes)


def decode_writes(serde: SerializerProtocol, writes: Iterable[Write]) -> list[PendingWrite]:
    """In the order in which a run applies them."""
    ordered = sorted(writes, key=lambda write: writes_sort_key(write.task_path, write.task_id, write.idx))
    return [(write.task_id, write.channel, serde.loads_typed((write.type, write.value))) for write in ordered]


def encode_metadata(config: RunnableConfig, metadata: CheckpointMetadata) -> bytes:
    complete = get_checkpoint_metadata(config, metadata)
    return json.dumps(complete, ensure_ascii=False).encode("utf-8", "ignore")


class StoredCheckpoint(NamedTuple):
    """A row of the table of checkpoints in SQLite, with its writes."""

    key: CheckpointKey
    parent_id: str | None
    type: str
    checkpoint: bytes
    metadata: bytes | None
    writes: Sequence[Write] = ()

    def decode(self, serde: SerializerProtocol, config: RunnableConfig | None = None) -> CheckpointTuple:
        """`config`: of the caller; None = the key's own."""
        return CheckpointTuple(
            config or self.key.config,
            serde.loads_typed((self.type, self.checkpoint)),
            cast("CheckpointMetadata", {} if self.metadata is None else json.loads(self.metadata)),
            parent_config(self.key, self.parent_id),
            decode_writes(serde, self.writes),
        )


def parent_config(key: CheckpointKey, parent_id: str | None) -> RunnableConfig | None:
    return key._replace(checkpoint_id=parent_id).config if parent_id else None


def next_version(current: str | float | None) -> str:
    """The version of a channel after `current`, in the format of LangGraph's own savers."""
    number = int(str(current).partition(".")[0]) if current is not None else 0
    return f"{number + 1:032}.{random.random():016}"


class _Serializer(JsonPlusSerializer):
    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Raises TypeError, with the remedy, for a value that no checkpoint can have."""
        try:
            return super().dumps_typed(obj)
        except TypeError as error:
            raise TypeError(f"{error}. {_REMEDY}") from error


_REMEDY = (
    "Checkpoints keep no values of such classes, because nothing is pickled: make the class a dataclass, a"
    " Pydantic model or a TypedDict, or keep what it is made of in the state of the graph"
)


def serializer(allowed: Iterable[type | tuple[str, str]] = ()) -> SerializerProtocol:
    """Of values of built-in types and of LangGraph's and LangChain's own, and of the types in `allowed`
    (classes, or module and name). A value of another type is read as the plain data that it was made of.
    Never unpickles."""
    # The package's own types are incomplete: a tuple of two names is one of its keys.
    return _Serializer(
        pickle_fallback=False,
        allowed_msgpack_modules=cast("tuple[type, ...]", tuple(allowed)) or None,
    )
