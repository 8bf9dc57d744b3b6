"""The vocabulary that callers and assistants share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from stores.retry import PersistenceRetryPolicy
from stores.rows import Json
from stores.states import CancelAction, Cause, DisconnectMode, Phase, RunStatus, Strategy

__all__ = [
    "Abort",
    "CancelAction",
    "Cause",
    "CheckpointRef",
    "Command",
    "DisconnectMode",
    "Interrupt",
    "Json",
    "Outcome",
    "PersistenceRetryPolicy",
    "Phase",
    "Receipt",
    "RunRequest",
    "RunStatus",
    "Strategy",
    "User",
]


@dataclass(frozen=True, slots=True)
class User:
    """On whose behalf a call is made."""

    user_id: str


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    checkpoint_id: str | None = None
    checkpoint_ns: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    resume: Json = None
    update: Json = None
    goto: Json = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Why a paused run stopped, and what it asks."""

    value: Json
    id: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run was asked to do: what `runs.kwargs` holds."""

    input: Json = None
    command: Command | None = None
    config: Json = None
    context: Json = None
    checkpoint: CheckpointRef | None = None
    metadata: Json = None
    stream_mode: tuple[str, ...] = ()
    stream_subgraphs: bool = False
    interrupt_before: list[str] | Literal["*"] | None = None
    interrupt_after: list[str] | Literal["*"] | None = None
    durability: Literal["sync", "async", "exit"] | None = None

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], metadata: Json) -> RunRequest:
        """Read a run's kwargs. Callers who do not use the key `input` mean all of kwargs as input."""
        known = {
            name: kwargs[name] for name in cls.__dataclass_fields__ if name in kwargs and name != "metadata"
        }
        if "input" not in known:
            known["input"] = dict(kwargs)
        for name, build in (("command", Command), ("checkpoint", CheckpointRef)):
            if isinstance(value := known.get(name), Mapping):
                fields = cast("Mapping[str, Any]", value)
                known[name] = build(
                    **{key: fields[key] for key in build.__dataclass_fields__ if key in fields}
                )
        modes = known.get("stream_mode", ())
        known["stream_mode"] = (modes,) if isinstance(modes, str) else tuple(modes or ())
        return cls(**known, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to. `values`: what the thread holds from now on, None = as saved.
    `result`: what `wait` returns. `paused`: it stopped with work left (success, thread interrupted)."""

    values: Json = None
    result: Json = None
    paused: bool = False
    interrupts: tuple[Interrupt, ...] = ()
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """Why a task is told to stop."""

    status: RunStatus
    action: CancelAction
    cause: Cause
    reason: str | None = None
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The four times of a cancel, microseconds since 1970; None = not yet.

    stopped: the task and all that it handed to `ctx.track` were over. settled: the thread is free.
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
