"""Every error that this project raises on purpose.

CoordinatorError
├── InvalidArgument            (also ValueError) names the argument
│   └── UnsupportedStrategyError
├── ConflictError              the thread has a run in flight
│   ├── IdempotencyConflict
│   └── ThreadExists           the id of a new thread exists already
├── QueueFull                  the queue of the thread or of the user is full
├── ThreadNotFound, RunNotFound, CronNotFound, AssistantNotFound
├── AssistantExists            the id of a new assistant is in use
├── SearchTooLong              a search or a count exceeded `search_timeout`
├── CronFired                  the cron is no longer due at that time
├── TooManyCrons               the user has reached the limit of crons
├── ParentEnded                the parent run was cancelled or failed: it admits no children
├── RunFailed                  raised by `wait` for a run that ended with error or timeout
├── RunNotStarted              raised by `running` for a run that must not run
├── NotSettled                 (also TimeoutError) the run is decided, but its task has not stopped yet
├── Draining                   this worker admits no more runs: retry on another worker
├── EpochDead, LeaseLost       this worker is fenced and registers with a new epoch
├── StaleFence                 a newer run holds the thread: discard the write
├── WrongEventLoop             (also RuntimeError) the manager belongs to another event loop
└── StoreError
    ├── StoreUnavailable       the operation was not acknowledged
    │   ├── StoreFull          no space for this write; smaller writes may succeed
    │   ├── OutboxFull         too many writes wait for the store: admission stops
    │   └── CancelNotDurable   the local task was stopped, but the cancel is not committed
    └── StoreRefused           foreign file, second host
        ├── SchemaTooNew       a newer version has migrated the store
        ├── SchemaTooOld       the store is older than the first release
        ├── StoreInUse         a worker of another host holds a lease on this SQLite file
        └── StoreReplaced      a file of the store was removed or replaced while it was open
"""

from __future__ import annotations

from collections.abc import Iterable

from stores.errors import (
    AssistantExists,
    AssistantNotFound,
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
    SchemaTooOld,
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
    "AssistantExists",
    "AssistantNotFound",
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
    "RunNotStarted",
    "SchemaTooNew",
    "SchemaTooOld",
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


class RunNotStarted(CoordinatorError):
    """The run was cancelled, or has ended otherwise, before its code could begin. `status`: its decision."""

    def __init__(self, run_id: str, status: str, error: str | None) -> None:
        self.run_id, self.status, self.error = run_id, status, error
        super().__init__(f"Run {run_id!r} has not started: it is {status}{f' ({error})' if error else ''}")


class NotSettled(CoordinatorError, TimeoutError):
    def __init__(self, run_id: str, waited: float) -> None:
        self.run_id, self.waited = run_id, waited
        super().__init__(
            f"Run {run_id!r} has not settled within {waited:g} s. A committed cancel stays committed:"
            " a task that does not stop is settled by force after `force_after`"
        )


class Draining(CoordinatorError):
    """The worker drains and admits no runs. Over HTTP this is 503 with `Retry-After`, never 409: the same
    request may succeed on another worker. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("draining, retry elsewhere: this worker admits no more runs")


class LeaseLost(CoordinatorError):
    """The worker did not renew its lease in time, so its peers may have ended its runs."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(
            f"Worker epoch {epoch} has lost its lease: it abandons its runs and registers with a new epoch"
        )


class CancelNotDurable(StoreUnavailable):
    def __init__(self, run_id: str, what: str) -> None:
        self.run_id = run_id
        super().__init__(
            what,
            hint=f"The local task of run {run_id!r} was stopped, but its cancel is not durable: it is written"
            " when the store is available, unless this process ends before.",
        )
