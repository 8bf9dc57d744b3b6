"""Value types shared by callers and assistants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias, cast

from stores.json_values import JsonMapping
from stores.retry import PersistenceRetryPolicy
from stores.rows import Json
from stores.states import CancelAction, Cause, DisconnectMode, Phase, RunStatus, Strategy

__all__ = [
    "PROTOCOL",
    "Abort",
    "CancelAction",
    "CancelAnswer",
    "CancelOutcome",
    "Cause",
    "CheckpointRef",
    "Command",
    "Description",
    "DisconnectMode",
    "Interrupt",
    "Json",
    "Outcome",
    "PersistenceRetryPolicy",
    "Phase",
    "Receipt",
    "RunRequest",
    "RunStatus",
    "StateStep",
    "StateView",
    "Strategy",
    "User",
]

PROTOCOL = "protocol"
"""Among the stream modes of a run: its events have the form of the Agent Streaming Protocol, of which the
other modes are the channels. With the mode `input` the run emits its interrupts itself."""


@dataclass(frozen=True, slots=True)
class User:
    """The user on whose behalf a call is made. `permissions` and `attributes` come from the authentication of
    the request. A run keeps them for the workers that execute it; they are not shown to clients."""

    user_id: str
    permissions: tuple[str, ...] = ()
    attributes: Mapping[str, Json] = field(default_factory=dict[str, Json], hash=False)


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A stored state of a thread. The thread itself is always a separate argument."""

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_map: Json = None


@dataclass(frozen=True, slots=True)
class Command:
    """Without `update` and `goto`, it resumes the run with `resume`, which may be None."""

    resume: Json = None
    update: Json = None
    goto: Json = None


@dataclass(frozen=True, slots=True)
class StateStep:
    """One update of a thread's state, applied as node `as_node`; None = the assistant chooses the node. With
    `command`, the node has returned that command instead of `values`."""

    values: Json = None
    as_node: str | None = None
    command: Command | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An interrupt of a paused run: `value` is its question to the caller. `response_schema`: JSON schema of
    the answer. `task_id`: the task of the graph that is interrupted."""

    value: Json
    id: str | None = None
    response_schema: Json = None
    task_id: str | None = None

    @property
    def stored(self) -> dict[str, Json]:
        """The form in which rows keep it, without the fields that it does not have."""
        fields: dict[str, Json] = {"value": self.value, "id": self.id}
        if self.response_schema is not None:
            fields["response_schema"] = self.response_schema
        if self.task_id is not None:
            fields["task_id"] = self.task_id
        return fields

    @classmethod
    def of(cls, stored: JsonMapping) -> Interrupt:
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__ if name in stored})


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The request of a run, as `runs.kwargs` holds it.

    An assistant ignores fields that it does not use; no field is refused for being unused.
    """

    input: Json = None
    command: Command | None = None
    config: Json = None
    context: Json = None
    checkpoint: CheckpointRef | None = None
    metadata: Json = None
    stream_mode: tuple[str, ...] = ()
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    interrupt_before: list[str] | Literal["*"] | None = None
    interrupt_after: list[str] | Literal["*"] | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: bool | None = None
    feedback_keys: tuple[str, ...] = ()
    langsmith_tracer: Json = None
    strict_resume: bool | None = None

    @classmethod
    def of(cls, kwargs: JsonMapping, metadata: Json) -> RunRequest:
        """Read a run's kwargs. Without the key `input`, all of kwargs is the input."""
        known = {
            name: kwargs[name] for name in cls.__dataclass_fields__ if name in kwargs and name != "metadata"
        }
        if "input" not in known:
            known["input"] = dict(kwargs)
        for name, build in (("command", Command), ("checkpoint", CheckpointRef)):
            if isinstance(value := known.get(name), Mapping):
                given = cast("JsonMapping", value)
                known[name] = build(**{key: given[key] for key in build.__dataclass_fields__ if key in given})
        for name in ("stream_mode", "feedback_keys"):
            known[name] = _texts(known.get(name))
        return cls(**known, metadata=metadata)

    def kwargs(self) -> dict[str, Json]:
        """The value for `runs.kwargs`, which `of` reads, as its row returns it. Metadata has a column of its
        own; fields with their default are left out."""
        stored: dict[str, Json] = {"input": self.input}
        for name, default in _STORED:
            value = getattr(self, name)
            if value == default:
                continue
            if isinstance(value, tuple):
                value = list(cast("tuple[str, ...]", value))
            stored[name] = asdict(value) if isinstance(value, (Command, CheckpointRef)) else value
        return stored


_STORED = tuple(
    (each.name, each.default) for each in fields(RunRequest) if each.name not in ("input", "metadata")
)


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(cast("Iterable[str]", value))


@dataclass(frozen=True, slots=True)
class StateView:
    """The state of a thread, current or at `checkpoint`. `next`: the nodes that a resumed run would execute;
    empty if no work is left."""

    values: Json = None
    next: tuple[str, ...] = ()
    checkpoint: CheckpointRef | None = None
    parent: CheckpointRef | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict[str, Json])
    created_at: str | None = None
    """ISO 8601 with a UTC offset."""
    tasks: tuple[Json, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()

    def carries(self, metadata: Mapping[str, Json] | None) -> bool:
        """Return True if the view's metadata contains every pair of `metadata`."""
        return all(
            key in self.metadata and self.metadata[key] == value for key, value in (metadata or {}).items()
        )


@dataclass(frozen=True, slots=True)
class Description:
    """JSON schemas of an assistant's input, output and state, and its graph; None = not declared."""

    text: str | None = None
    input_schema: Json = None
    output_schema: Json = None
    state_schema: Json = None
    config_schema: Json = None
    context_schema: Json = None
    drawing: Json = None
    """`{"nodes": […], "edges": […]}`."""


Output: TypeAlias = str | tuple[str, ...] | None
"""Which values of a thread a run returns: one of them, those with these names, or None = all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an attempt. `values`: the thread's new values, None = as saved. `result`: returned by
    `wait`, None = `values`, or what `output` names of them. `paused`: the run stopped with work left (status
    success, thread interrupted). `checkpoint`: the state after the run, None = the thread's current one; see
    the feature "state"."""

    values: Json = None
    result: Json = None
    paused: bool = False
    interrupts: tuple[Interrupt, ...] = ()
    drained: bool = False
    checkpoint: CheckpointRef | None = None
    output: Output = None


class Ended(NamedTuple):
    """The end of a run. `interrupts`: its questions if it `paused` (status success, thread interrupted)."""

    status: RunStatus
    error: str | None
    result: Json = None
    paused: bool = False
    interrupts: Json = None


@dataclass(frozen=True, slots=True)
class Abort:
    """The reason why a task must stop."""

    status: RunStatus
    action: CancelAction
    cause: Cause
    reason: str | None = None
    actor: str | None = None


class CancelOutcome(StrEnum):
    committed = "committed"
    """By this call."""
    repeated = "repeated"
    """The run was interrupted before."""
    ended = "ended"
    """The run has another terminal status."""
    not_found = "not found"


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """The answer to a cancel; true if the run is interrupted now. `status`, `action`, `cause`, `reason`,
    `actor`: the decision that counts, of this call or of an earlier one. `worker`: the one that executes the
    run or has it in its queue; None = none does, or it has ended."""

    outcome: CancelOutcome
    status: RunStatus | None = None
    action: CancelAction | None = None
    cause: Cause | None = None
    reason: str | None = None
    actor: str | None = None
    worker: Literal["this", "another"] | None = None

    def __bool__(self) -> bool:
        return self.outcome in (CancelOutcome.committed, CancelOutcome.repeated)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The four times of a cancel, in microseconds since 1970; None = not yet.

    stopped: the task and all work registered with `ctx.track` have ended. settled: the thread is free.
    """

    run_id: str
    status: RunStatus
    phase: Phase
    action: CancelAction | None
    cause: Cause | None
    reason: str | None
    actor: str | None
    requested: int | None
    delivered: int | None
    stopped: int | None
    settled: int | None
