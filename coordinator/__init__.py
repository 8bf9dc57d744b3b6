"""Coordinates LLM agent runs across processes: one run at a time on a thread, cancel from anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.assistants.decorator import assistant
    from coordinator.bootstrap import open_coordinator
    from coordinator.context import BlockContext, RunContext, current_run
    from coordinator.errors import (
        CancelNotDurable,
        ConflictError,
        CoordinatorError,
        Draining,
        IdempotencyConflict,
        InvalidArgument,
        LeaseLost,
        NotSettled,
        OutboxFull,
        ParentEnded,
        QueueFull,
        RunFailed,
        RunNotFound,
        RunNotStarted,
        StaleFence,
        StoreError,
        StoreRefused,
        StoreUnavailable,
        ThreadExists,
        ThreadNotFound,
        UnsupportedStrategyError,
    )
    from coordinator.event_log import End, Event, Gap
    from coordinator.events.follower import Follower
    from coordinator.manager import RunManager
    from coordinator.record import RunRecord
    from coordinator.schemas import (
        Abort,
        CancelAction,
        CancelAnswer,
        CancelOutcome,
        Cause,
        CheckpointRef,
        Description,
        DisconnectMode,
        Ended,
        Interrupt,
        Outcome,
        PersistenceRetryPolicy,
        Phase,
        Receipt,
        RunRequest,
        RunStatus,
        StateView,
        Strategy,
        User,
    )
    from coordinator.settings import Settings
    from coordinator.workers.health import Health
    from coordinator.workers.projections import Projection
    from stores.base import RunStore
    from stores.catalogue import ThreadQuery
    from stores.memory import MemoryRunStore
    from stores.projections import RunChange

__all__ = [
    "Abort",
    "BlockContext",
    "CancelAction",
    "CancelAnswer",
    "CancelNotDurable",
    "CancelOutcome",
    "Cause",
    "CheckpointRef",
    "ConflictError",
    "CoordinatorError",
    "Description",
    "DisconnectMode",
    "Draining",
    "End",
    "Ended",
    "Event",
    "Follower",
    "Gap",
    "Health",
    "IdempotencyConflict",
    "Interrupt",
    "InvalidArgument",
    "LeaseLost",
    "MemoryRunStore",
    "NotSettled",
    "OutboxFull",
    "Outcome",
    "ParentEnded",
    "PersistenceRetryPolicy",
    "Phase",
    "Projection",
    "QueueFull",
    "Receipt",
    "RunChange",
    "RunContext",
    "RunFailed",
    "RunManager",
    "RunNotFound",
    "RunNotStarted",
    "RunRecord",
    "RunRequest",
    "RunStatus",
    "RunStore",
    "Settings",
    "StaleFence",
    "StateView",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "Strategy",
    "ThreadExists",
    "ThreadNotFound",
    "ThreadQuery",
    "UnsupportedStrategyError",
    "User",
    "assistant",
    "current_run",
    "open_coordinator",
]

# Imported on first access: `coordinator --help` needs none of them, and importing them takes longer than it
# may.
_HOMES = {
    "Abort": "coordinator.schemas",
    "BlockContext": "coordinator.context",
    "CancelAction": "coordinator.schemas",
    "CancelAnswer": "coordinator.schemas",
    "CancelOutcome": "coordinator.schemas",
    "CancelNotDurable": "coordinator.errors",
    "Cause": "coordinator.schemas",
    "CheckpointRef": "coordinator.schemas",
    "ConflictError": "coordinator.errors",
    "CoordinatorError": "coordinator.errors",
    "Description": "coordinator.schemas",
    "Ended": "coordinator.schemas",
    "DisconnectMode": "coordinator.schemas",
    "Draining": "coordinator.errors",
    "End": "coordinator.event_log",
    "Event": "coordinator.event_log",
    "Follower": "coordinator.events.follower",
    "Gap": "coordinator.event_log",
    "Health": "coordinator.workers.health",
    "IdempotencyConflict": "coordinator.errors",
    "Interrupt": "coordinator.schemas",
    "InvalidArgument": "coordinator.errors",
    "LeaseLost": "coordinator.errors",
    "MemoryRunStore": "stores.memory",
    "NotSettled": "coordinator.errors",
    "OutboxFull": "coordinator.errors",
    "Outcome": "coordinator.schemas",
    "ParentEnded": "coordinator.errors",
    "PersistenceRetryPolicy": "coordinator.schemas",
    "Phase": "coordinator.schemas",
    "Projection": "coordinator.workers.projections",
    "QueueFull": "coordinator.errors",
    "Receipt": "coordinator.schemas",
    "RunChange": "stores.projections",
    "RunContext": "coordinator.context",
    "RunFailed": "coordinator.errors",
    "RunManager": "coordinator.manager",
    "RunNotFound": "coordinator.errors",
    "RunNotStarted": "coordinator.errors",
    "RunRecord": "coordinator.record",
    "RunRequest": "coordinator.schemas",
    "RunStatus": "coordinator.schemas",
    "RunStore": "stores.base",
    "Settings": "coordinator.settings",
    "StaleFence": "coordinator.errors",
    "StateView": "coordinator.schemas",
    "StoreError": "coordinator.errors",
    "StoreRefused": "coordinator.errors",
    "StoreUnavailable": "coordinator.errors",
    "Strategy": "coordinator.schemas",
    "ThreadExists": "coordinator.errors",
    "ThreadNotFound": "coordinator.errors",
    "ThreadQuery": "stores.catalogue",
    "UnsupportedStrategyError": "coordinator.errors",
    "User": "coordinator.schemas",
    "assistant": "coordinator.assistants.decorator",
    "current_run": "coordinator.context",
    "open_coordinator": "coordinator.bootstrap",
}

if not TYPE_CHECKING:  # type checkers read the imports above, and report any other name as missing

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
