"""Request bodies for runs. See `coordinator.gateway.wire.bodies`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from coordinator.arguments import MAX_TIME_LIMIT, MAX_URL
from coordinator.gateway.wire.bodies import (
    DEFAULT_MODES,
    ActingBody,
    Body,
    Checkpoint,
    Command,
    Id,
    JsonObject,
    Long,
    Modes,
    Name,
    Names,
    Short,
    Strategy,
    StreamMode,
    checkpoint_in,
    deduplicate,
    ref_of,
)
from coordinator.gateway.wire.json import Json
from coordinator.schemas import CheckpointRef


def _as_list(value: object) -> object:
    """A single mode becomes a list; an empty list counts as absent."""
    return [value] if isinstance(value, str) else DEFAULT_MODES if value == [] else value


StreamModes = Annotated[Modes, BeforeValidator(_as_list, json_schema_input_type=StreamMode | Modes)]


def _check_configurable(configurable: JsonObject) -> JsonObject:
    checkpoint_in(configurable)
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
            return ref_of(checkpoint_in(self.config.configurable), None)
        return checkpoint


class RunCreate(RunOptions):
    assistant_id: Name


class BatchedRun(RunCreate):
    """Without `thread_id` the run gets its own thread, which is removed afterwards."""

    thread_id: Id | None = None


class RunsCancel(ActingBody):
    """Selects runs of a thread by their ids, or all runs in flight that match every filter."""

    thread_id: Id | None = None
    run_ids: Annotated[list[Id], Field(min_length=1), Long, AfterValidator(deduplicate)] | None = None
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
