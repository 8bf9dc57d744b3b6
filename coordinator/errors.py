"""Every error that this project raises on purpose.

CoordinatorError
├── InvalidArgument            (also ValueError) names the argument
│   └── UnsupportedStrategyError
├── ConflictError              the thread has a run in flight
│   ├── IdempotencyConflict
│   └── ThreadExists           a new thread was asked for, and its id is taken
├── QueueFull                  the waiting line is full
├── ThreadNotFound, RunNotFound, CronNotFound
├── SearchTooLong              a search or a count was stopped at its deadline
├── CronFired                  the cron is not due at that moment any more
├── TooManyCrons               the user has as many as one user may have
├── ParentEnded                the parent run was stopped or failed: it gets no more children
├── RunFailed                  what `wait` raises for a run that ended in error or timeout
├── NotSettled                 (also TimeoutError) decided, but its task has not stopped yet
├── Draining                   this worker admits nothing any more: retry elsewhere
├── EpochDead, LeaseLost       this worker is fenced; it registers anew
├── StaleFence                 a newer run has the thread: drop the write
├── WrongEventLoop             (also RuntimeError) the manager lives in another event loop
└── StoreError
    ├── StoreUnavailable       nothing was acknowledged
    │   ├── StoreFull          there is no room for this write; smaller ones may be taken
    │   ├── OutboxFull         too much waits for the store: nothing is admitted
    │   └── CancelNotDurable   the local task was stopped, but the cancel is not written
    └── StoreRefused           foreign file, second host
        ├── SchemaTooNew       a newer program has migrated the store beyond this one
        ├── StoreInUse         a worker of another host has a lease on this SQLite file
        └── StoreReplaced      a file of the store was removed or replaced while it was open
"""

from __future__ import annotations

from collections.abc import Iterable

from stores.errors import (
    ConflictError,
    CoordinatorError,
    CronFired,
    CronNotFound,
    EpochDead,
    IdempotencyConflict,
    OutboxFull,
    ParentEnded,
    QueueFull,
    RunNotFound,
    SchemaTooNew,
    SearchTooLong,
    StaleFence,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreRefused,
    StoreReplaced,
    StoreUnavailable,
    ThreadExists,
    ThreadNotFound,
    TooManyCrons,
    WrongEventLoop,
)

__all__ = [
    "CancelNotDurable",
    "ConflictError",
    "CoordinatorError",
    "CronFired",
    "CronNotFound",
    "Draining",
    "EpochDead",
    "IdempotencyConflict",
    "InvalidArgument",
    "LeaseLost",
    "NotSettled",
    "OutboxFull",
    "ParentEnded",
    "QueueFull",
    "RunFailed",
    "RunNotFound",
    "SchemaTooNew",
    "SearchTooLong",
    "StaleFence",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreRefused",
    "StoreReplaced",
    "StoreUnavailable",
    "ThreadExists",
    "ThreadNotFound",
    "TooManyCrons",
    "UnsupportedStrategyError",
    "WrongEventLoop",
]


class InvalidArgument(CoordinatorError, ValueError):
    """An argument has the wrong type or shape. Nothing was written."""

    def __init__(self, argument: str, why: str) -> None:
        self.argument, self.why = argument, why
        super().__init__(f"{argument}: {why}")


class UnsupportedStrategyError(InvalidArgument):
    def __init__(self, strategy: object, supported: Iterable[str]) -> None:
        self.strategy = strategy
        self.supported = tuple(supported)
        names = ", ".join(self.supported)
        super().__init__(
            "multitask_strategy", f"{strategy!r} is not yet supported; supported strategies: {names}"
        )


class RunFailed(CoordinatorError):
    def __init__(self, run_id: str, status: str, error: str | None) -> None:
        self.run_id, self.status, self.error = run_id, status, error
        super().__init__(f"Run {run_id!r} ended with {status}: {error or 'no error text'}")


class NotSettled(CoordinatorError, TimeoutError):
    def __init__(self, run_id: str, waited: float) -> None:
        self.run_id, self.waited = run_id, waited
        super().__init__(
            f"Run {run_id!r} has not settled within {waited:g} s. A committed cancel stays committed:"
            " a task that does not stop is settled by force after `force_after`"
        )


class Draining(CoordinatorError):
    """The worker is about to leave. Not the thread's fault and not the caller's: over HTTP this is 503
    with a retry, never 409. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("draining, retry elsewhere: this worker admits no runs any more")


class LeaseLost(CoordinatorError):
    """The worker could not renew its lease in time, so its peers may have ended its runs."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(
            f"Worker epoch {epoch} has lost its lease: its runs are dropped and it registers anew"
        )


class CancelNotDurable(StoreUnavailable):
    def __init__(self, run_id: str, what: str) -> None:
        self.run_id = run_id
        super().__init__(
            what, hint=f"The local task of run {run_id!r} was stopped, but its cancel is not durable."
        )
