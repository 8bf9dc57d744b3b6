"""Request bodies. Each body is validated as a whole before the request has any effect.

A key with the value null counts as absent, as clients of the API expect. An unknown key is refused if the
request modifies existing data (`ActingBody`), else ignored and logged, because newer clients may send it.
Types are strict: a number in quotes is a string.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, ClassVar, Literal, Self, cast
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from coordinator.arguments import check_id
from coordinator.errors import InvalidArgument
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire import unknown_keys
from coordinator.gateway.wire.json import Json, encoded
from coordinator.schemas import CheckpointRef
from stores.json_values import JsonObject

MAX_PAGE = 1000
MAX_OFFSET = 2**31
MAX_IDS = 1000
MAX_BATCH = 1000
MAX_KEYS = 1000

StreamMode = Literal[
    "values",
    "messages",
    "messages-tuple",
    "updates",
    "events",
    "tasks",
    "checkpoints",
    "debug",
    "custom",
    "tools",
    "lifecycle",
]
DEFAULT_MODES: list[StreamMode] = ["values"]
Strategy = Literal["reject", "rollback", "interrupt", "enqueue"]
Action = Literal["interrupt", "rollback"]
RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
Direction = Literal["asc", "desc"]


def _canonical_uuid(value: str) -> str:
    """Returns the UUID in the form in which it is stored."""
    return str(UUID(value))


def _check_name(value: str) -> str:
    return check_id("it", value)


def deduplicate(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


# Every list has a maximal length; its validation stops at the first invalid item.
Short = Field(max_length=64, fail_fast=True)
Selected = Field(min_length=1, max_length=64, fail_fast=True)
Long = Field(max_length=MAX_IDS, fail_fast=True)

Id = Annotated[
    str, AfterValidator(_canonical_uuid), Field(max_length=64, json_schema_extra={"format": "uuid"})
]
Name = Annotated[str, AfterValidator(_check_name), Field(min_length=1, max_length=255)]
Names = Annotated[list[Name], Long]
Modes = Annotated[list[StreamMode], Short]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


class Body(LazyModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: object) -> object:
        return cls.without_nulls(document, ())

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()
    """Keys that clients send and that have no effect here."""

    @classmethod
    def without_nulls(cls, document: object, nullable: Collection[str]) -> object:
        """Removes keys whose value is null, except the `nullable` ones, and handles unknown keys. Raises
        ValueError."""
        if not isinstance(document, dict):
            return document
        fields = cast("dict[object, object]", document)
        if len(fields) > MAX_KEYS:
            raise ValueError(f"may have {MAX_KEYS} keys at most")
        kept = {key: value for key, value in fields.items() if value is not None or key in nullable}
        if cls.model_config.get("extra") != "allow" and (unknown := kept.keys() - cls.model_fields.keys()):
            cls.handle_unknown(key for key in kept if key in unknown and key not in cls.IGNORED_KEYS)
        return kept

    @classmethod
    def handle_unknown(cls, unknown: Iterable[object]) -> None:
        unknown_keys.log_ignored(cls.__name__, unknown)


class ActingBody(Body):
    """The body of a request that cancels, changes or removes existing data."""

    @classmethod
    def handle_unknown(cls, unknown: Iterable[object]) -> None:
        unknown_keys.refuse(unknown, cls.model_fields)


class Checkpoint(Body):
    """A reference to a state of the thread in the path."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"thread_id"})

    checkpoint_id: Name | None = None
    checkpoint_ns: str = Field(default="", max_length=4096)
    checkpoint_map: JsonObject | None = None

    @property
    def ref(self) -> CheckpointRef:
        return CheckpointRef(self.checkpoint_id, self.checkpoint_ns, self.checkpoint_map)


def ref_of(checkpoint: Checkpoint | None, checkpoint_id: str | None) -> CheckpointRef | None:
    """Returns the reference of either; clients of older versions send only the id."""
    if checkpoint is not None:
        return checkpoint.ref
    return None if checkpoint_id is None else CheckpointRef(checkpoint_id)


class Send(Body):
    node: Name
    input: Json = None


class Command(Body):
    """`resume` is the reply to the interrupt of a paused run, which may be null."""

    resume: Json = None
    update: Json = None
    goto: Send | Name | Annotated[list[Send | Name], Long] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: object) -> object:
        return cls.without_nulls(document, ("resume",))

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs one of resume, update and goto")
        return self


def checkpoint_keys(configurable: JsonObject) -> JsonObject:
    """Returns the keys that reference a checkpoint."""
    return {key: configurable[key] for key in Checkpoint.model_fields if key in configurable}


def checkpoint_in(configurable: JsonObject) -> Checkpoint | None:
    """None = it names none: a namespace alone is no checkpoint. Raises ValueError, without what was sent."""
    if configurable.get("checkpoint_id") is None:
        return None
    try:
        return Checkpoint.model_validate(checkpoint_keys(configurable))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check_metadata(metadata: JsonObject, limit: int) -> None:
    """Checks metadata, which is stored with its thread or run and queried. Raises InvalidArgument."""
    text = encoded(metadata)
    if len(text) > limit:
        raise InvalidArgument("metadata", f"may have {limit} bytes as JSON, not {len(text)}")
    if b"\\u0000" in text:
        raise InvalidArgument("metadata", "must not contain NUL")
