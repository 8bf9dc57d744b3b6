"""Request bodies. Each body is validated as a whole before the request has any effect.

A key with the value null counts as absent, as clients of the API expect. An unknown key is refused if the
request modifies existing data (`ActingBody`), else ignored and logged, because newer clients may send it.
Types are strict: a number in quotes is a string.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from coordinator.arguments import MAX_TIME_LIMIT, MAX_URL, check_id
from coordinator.errors import InvalidArgument
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire import unknown_keys
from coordinator.gateway.wire.filters import Filter
from coordinator.gateway.wire.json import Json, encoded
from coordinator.schemas import CheckpointRef

JsonObject: TypeAlias = dict[str, Any]

MAX_PAGE = 1000
MAX_OFFSET = 2**31
MAX_IDS = 1000
MAX_BATCH = 1000
MAX_UPDATES = 10_000
MAX_KEYS = 1000
MAX_PATHS = 10
MAX_MINUTES = MAX_TIME_LIMIT / 60

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
ThreadOrder = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
AssistantOrder = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]
Direction = Literal["asc", "desc"]
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
ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "context",
    "values",
    "interrupts",
    "error",
]
AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]


def _canonical_uuid(value: str) -> str:
    """Returns the UUID in the form in which it is stored."""
    return str(UUID(value))


def _check_name(value: str) -> str:
    return check_id("it", value)


def _as_list(value: object) -> object:
    """A single mode becomes a list; an empty list counts as absent."""
    return [value] if isinstance(value, str) else DEFAULT_MODES if value == [] else value


def _deduplicate(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _check_path_count(value: object) -> object:
    """Checks the number of paths before the paths: each invalid path would be listed as a mistake."""
    if _key_count(value) > MAX_PATHS:
        raise ValueError(f"may have {MAX_PATHS} paths at most")
    return value


def _key_count(value: object) -> int:
    return len(cast("dict[object, object]", value)) if isinstance(value, dict) else 0


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
StreamModes = Annotated[Modes, BeforeValidator(_as_list, json_schema_input_type=StreamMode | Modes)]
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
    """`resume` is the reply to the interrupt of a paused run."""

    resume: Json = None
    update: Json = None
    goto: Send | Name | Annotated[list[Send | Name], Long] | None = None


def checkpoint_keys(configurable: JsonObject) -> JsonObject:
    """Returns the keys that reference a checkpoint."""
    return {key: configurable[key] for key in Checkpoint.model_fields if key in configurable}


def _checkpoint_in(configurable: JsonObject) -> Checkpoint | None:
    """Returns the checkpoint, or None if there is no `checkpoint_id`: a namespace alone is not a reference.
    Raises ValueError, whose message does not contain the input."""
    if configurable.get("checkpoint_id") is None:
        return None
    try:
        return Checkpoint.model_validate(checkpoint_keys(configurable))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _check_configurable(configurable: JsonObject) -> JsonObject:
    _checkpoint_in(configurable)
    return configurable


class Config(Body):
    """Passed to the assistant, without the keys that are reserved for the server."""

    model_config = ConfigDict(extra="allow")

    tags: Annotated[list[str], Long] | None = None
    recursion_limit: int | None = Field(default=None, ge=1, le=2**31)
    configurable: Annotated[JsonObject, AfterValidator(_check_configurable)] | None = None
    metadata: JsonObject | None = None


class RunOptions(Body):
    """The options of a run that do not depend on its assistant."""

    input: Json = None
    command: Command | None = None
    metadata: JsonObject = Field(default_factory=dict)
    config: Config | None = None
    context: JsonObject | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: Name | None = None

    stream_mode: StreamModes = Field(default=DEFAULT_MODES)
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    feedback_keys: Annotated[list[str], Short] | None = None

    interrupt_before: Literal["*"] | Names | None = None
    interrupt_after: Literal["*"] | Names | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: bool | None = None
    strict_resume: bool | None = None
    langsmith_tracer: JsonObject | None = None

    multitask_strategy: Strategy = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"
    on_disconnect: Literal["cancel", "continue"] = "continue"
    on_completion: Literal["delete", "keep"] = "delete"
    after_seconds: float = Field(default=0, ge=0, le=MAX_TIME_LIMIT)
    webhook: str | None = Field(default=None, min_length=1, max_length=MAX_URL)

    @property
    def start_checkpoint(self) -> CheckpointRef | None:
        """The checkpoint at which the run starts; some clients put it into `config.configurable`."""
        checkpoint = ref_of(self.checkpoint, self.checkpoint_id)
        if checkpoint is None and self.config is not None and self.config.configurable is not None:
            return ref_of(_checkpoint_in(self.config.configurable), None)
        return checkpoint


class RunCreate(RunOptions):
    assistant_id: Name


class BatchedRun(RunCreate):
    """Without `thread_id` the run gets its own thread, which is removed afterwards."""

    thread_id: Id | None = None


class RunsCancel(ActingBody):
    """Selects runs of a thread by their ids, or all runs in flight that match every filter."""

    thread_id: Id | None = None
    run_ids: Annotated[list[Id], Field(min_length=1), Long, AfterValidator(_deduplicate)] | None = None
    status: Literal["pending", "running", "all"] | None = None
    assistant_id: Name | None = None
    user_id: Name | None = Field(default=None, description="Only this user's runs; for admins")
    metadata: JsonObject = Field(default_factory=dict, description="Contained in the run's metadata")
    older_than: float | None = Field(
        default=None, gt=0, le=MAX_TIME_LIMIT, description="Created more than this many seconds ago"
    )
    dry_run: bool = Field(default=False, description="Count the runs without cancelling them")

    @model_validator(mode="after")
    def _ids_or_filters(self) -> Self:
        filters = self.status, self.assistant_id, self.user_id, self.metadata or None, self.older_than
        filtered = any(value is not None for value in filters)
        if self.run_ids is not None and (self.thread_id is None or filtered):
            raise ValueError("run_ids need their thread_id, and cannot be combined with a filter")
        if self.run_ids is None and self.thread_id is None and not filtered:
            raise ValueError("a filter is required: status all selects all of your runs")
        return self

    @property
    def without_counts(self) -> bool:
        """Whether the request has the form that clients of the Runs API use; its response has no counts."""
        return self.model_fields_set in ({"status"}, {"thread_id", "run_ids"})


class TimeToLive(Body):
    """Time to live of a thread (minutes since its last use), after which it is removed."""

    ttl: float = Field(gt=0, le=MAX_MINUTES)
    strategy: Literal["delete"] = "delete"

    @property
    def seconds(self) -> float:
        return self.ttl * 60


def _ttl(value: object) -> object:
    return {"ttl": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Ttl = Annotated[TimeToLive, BeforeValidator(_ttl, json_schema_input_type=TimeToLive | float)]


Updates = Annotated[list[JsonObject], Field(max_length=MAX_UPDATES, fail_fast=True)]


class StateUpdate(ActingBody):
    values: JsonObject | Updates | None = None
    as_node: Name | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_id: Name | None = None


class SuperstepUpdate(Body):
    values: JsonObject | Updates | None = None
    command: Command | None = None
    as_node: Name


class Superstep(Body):
    updates: Annotated[list[SuperstepUpdate], Long]


class ThreadCreate(Body):
    thread_id: Id | None = None
    metadata: JsonObject = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: Ttl | None = None
    supersteps: Annotated[list[Superstep], Long] | None = None

    @model_validator(mode="after")
    def _check_update_count(self) -> Self:
        """Bounds the updates: each is a transaction during which the thread is held."""
        if sum(len(step.updates) for step in self.supersteps or ()) > MAX_BATCH:
            raise ValueError(f"supersteps may have {MAX_BATCH} updates at most, all of them together")
        return self


class ThreadPatch(ActingBody):
    """`metadata` is merged by key."""

    metadata: JsonObject = Field(default_factory=dict)
    ttl: Ttl | None = None


class ThreadCount(Body):
    metadata: Filter = Field(default_factory=dict)
    values: Filter = Field(default_factory=dict)
    status: ThreadStatus | None = None


class ThreadSearch(ThreadCount):
    ids: Annotated[list[Id], Long, AfterValidator(_deduplicate)] | None = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: ThreadOrder = "created_at"
    sort_order: Direction = "desc"
    select: Annotated[list[ThreadField], Selected] | None = None
    extract: (
        Annotated[dict[str, str], BeforeValidator(_check_path_count), Field(max_length=MAX_PATHS)] | None
    ) = None


class StateAt(Body):
    checkpoint: Checkpoint
    subgraphs: bool = False
    select: Annotated[list[str], Selected] | None = None


def _from_config(value: object) -> object:
    """Accepts a config, whose checkpoint is in `configurable`, as a checkpoint."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[object, object]", value)
    configurable = fields.get("configurable")
    return checkpoint_keys(cast("JsonObject", configurable)) if isinstance(configurable, dict) else fields


class Configured(Body):
    """The type of `before` in JavaScript clients."""

    configurable: JsonObject


Before = Annotated[
    Checkpoint | Name,
    BeforeValidator(_from_config, json_schema_input_type=Checkpoint | Configured | Name),
]


class HistoryBefore(Body):
    limit: Limit = 10
    before: Before | None = None
    metadata: Filter = Field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    select: Annotated[list[str], Selected] | None = None


class AssistantCount(Body):
    metadata: Filter = Field(default_factory=dict)
    graph_id: str | None = None
    name: str | None = Field(default=None, description="Part of the name, case-insensitive")


class AssistantSearch(AssistantCount):
    limit: Limit = 10
    offset: Offset = 0
    sort_by: AssistantOrder = "name"
    sort_order: Direction = "asc"
    select: Annotated[list[AssistantField], Selected] | None = None


def check_metadata(metadata: dict[str, Any], limit: int) -> None:
    """Checks metadata, which is stored with its thread or run and queried. Raises InvalidArgument."""
    text = encoded(metadata)
    if len(text) > limit:
        raise InvalidArgument("metadata", f"may have {limit} bytes as JSON, not {len(text)}")
    if b"\\u0000" in text:
        raise InvalidArgument("metadata", "must not contain NUL")
