"""The events of telemetry. Ids are unescaped input of clients: escape them before you print them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stores.rows import Json


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class RunEvent(Event):
    run_id: str
    thread_id: str


@dataclass(frozen=True, slots=True)
class RunAdmitted(RunEvent):
    """Emitted once for each run, by the worker that has admitted it. Workers that take it over emit none."""

    strategy: str
    holds: bool


@dataclass(frozen=True, slots=True)
class RunRefused(Event):
    thread_id: str
    active_run_id: str | None


@dataclass(frozen=True, slots=True)
class RunStarted(RunEvent):
    fence: int
    assistant_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunAborted(RunEvent):
    """A cancel was delivered to the run's task on this worker."""

    status: str
    cause: str
    reason: str | None
    actor: str | None


@dataclass(frozen=True, slots=True)
class RunEmitted(RunEvent):
    """A run's code emitted an event for its watchers."""

    mode: str
    json: str

    @property
    def data(self) -> Json:
        """Decoded on each access."""
        return json.loads(self.json)


@dataclass(frozen=True, slots=True)
class RunSettled(RunEvent):
    """The run has ended and its thread is free of it. For each run that ends, one worker emits this event or
    RunRecovered. Operations emit neither."""

    status: str
    error: str | None


@dataclass(frozen=True, slots=True)
class RunForced(RunEvent):
    """The task ignored its cancel for `after` s; its thread was freed by force, and its fence is stale. It
    occupies its place of the worker until RunStopped."""

    after: float
    stack: str
    assistant_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunStopped(RunEvent):
    """The work of a run that was settled by force has ended, `after` s after it was to stop."""

    after: float


@dataclass(frozen=True, slots=True)
class RunLost(RunEvent):
    """Another worker owns the run, or the lease ended: this worker writes nothing more for it."""

    why: str


@dataclass(frozen=True, slots=True)
class RunRecovered(RunEvent):
    """The run of a dead worker has ended and its thread is free of it: a sweep ended it or finished its
    rollback, or its worker has given up its epoch. In place of RunSettled."""

    status: str
    dead_epoch: int | None


@dataclass(frozen=True, slots=True)
class RunHandedOver(RunEvent):
    """This worker drains, and `attempt` of the run has stopped undecided: another worker continues it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class RunContinued(RunEvent):
    """This worker executes a further `attempt` of a run whose worker has died or drains."""

    attempt: int


@dataclass(frozen=True, slots=True)
class WebhookDelivered(Event):
    run_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class WebhookFailed(Event):
    """An attempt failed. `retry_in`: seconds until the next attempt; None = this was the last one."""

    run_id: str
    attempt: int
    error: str | None
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class ChangeDelivered(Event):
    """A projection has `changes` more changes of runs."""

    projection: str
    changes: int


@dataclass(frozen=True, slots=True)
class ChangeFailed(Event):
    """A projection could not apply the change `seq` of a run. `retry_in`: seconds until the next attempt.
    Hooks that log take it at DEBUG: a projection logs its failures itself, as counts."""

    projection: str
    run_id: str
    seq: int
    attempt: int
    error: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class WorkerRegistered(Event):
    epoch: int


@dataclass(frozen=True, slots=True)
class WorkerFenced(Event):
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class PeerBuried(Event):
    """The worker `epoch` is dead and was fenced by the worker `by`. `worker`: its name for people. `ended`:
    number of its runs that the following sweep ended; `continued`: of those that the sweeping worker
    continues."""

    epoch: int
    by: int
    worker: str = ""
    ended: int = 0
    continued: int = 0


@dataclass(frozen=True, slots=True)
class ConnectivityChanged(Event):
    connectivity: str
