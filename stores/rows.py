"""What goes into a store's transactions and what comes out of them. Immutable, adapter-neutral.

Times are microseconds of the store's clock since 1970 (UTC) unless a name has another unit. What every
run passes through is a NamedTuple: as frozen dataclasses these took 15 us of a run's 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stores.json_values import Json, JsonObject
from stores.spec import RunColumns
from stores.states import OPEN, CancelAction, Cause, Phase, RunStatus, WorkerState, phase_of

COUNTERS = (
    "total_input_tokens",
    "total_output_tokens",
    "total_tokens",
    "llm_call_count",
    "lead_agent_tokens",
    "subagent_tokens",
    "middleware_tokens",
    "message_count",
)
MESSAGES = ("last_ai_message", "first_human_message")


class Limits(NamedTuple):
    """How long a queue may get; None = unbounded."""

    per_thread: int | None = None
    per_user: int | None = None


class Ownership(NamedTuple):
    """The guard that every write of an owner carries. If no row matches it, the worker has lost the run."""

    run_id: str
    thread_id: str
    epoch: int
    fence: int


class Decision(NamedTuple):
    """What became of a run, as the store has it after a decide or a finish. `won` is True where this very
    call fixed the outcome. `settled` is True where the run does not hold the thread (any more), so that no
    task has to be stopped. `children`: what this very call decided over the children in flight, and over
    theirs."""

    run_id: str
    thread_id: str
    status: RunStatus
    won: bool
    settled: bool
    owner_epoch: int | None
    home_epoch: int | None
    fence: int
    action: CancelAction | None = None
    cause: Cause | None = None
    reason: str | None = None
    actor: str | None = None
    error: str | None = None
    children: tuple[Decision, ...] = ()

    @property
    def worker(self) -> int | None:
        """The epoch of the worker that executes the run, or in whose queue it waits."""
        return self.owner_epoch if self.owner_epoch is not None else self.home_epoch

    def elsewhere(self, epoch: int) -> bool:
        """Another worker than that of `epoch` executes the run, has executed it, or will."""
        return self.worker != epoch and (self.status in OPEN or self.owner_epoch is not None)


class Started(NamedTuple):
    """The answer of start. `decision.status` is `running` when it worked, also when repeated; a
    terminal one where a decision came first. `values` are the thread's at this moment."""

    decision: Decision
    values: Json


class Admission(NamedTuple):
    """The answer of admit and insert. `fence` is 0 while the run waits.

    `existing` is set where the run id or the idempotency key was in use: nothing was written, and only the
    worker that admitted that run first executes it. `started` is the answer of a start in the same
    transaction; None where there was none.
    """

    run_id: str
    holds: bool
    fence: int
    seq: int
    replaced: tuple[Decision, ...] = ()
    existing: RunRow | None = None
    temporary: bool = False
    started: Started | None = None

    @classmethod
    def of_existing(cls, run: RunRow) -> Admission:
        return cls(run.run_id, run.holds_thread, run.fence, run.seq, (), run)

    def ended(self, run_id: str | None) -> bool:
        """That run was in flight until this one took its place, or its parent's."""
        decided = (one for decision in self.replaced for one in (decision, *decision.children))
        return any(one.won and one.run_id == run_id for one in decided)


class Claimed(NamedTuple):
    """The run that took its thread. `started`: the answer of a start in the same transaction."""

    run_id: str
    fence: int
    started: Started | None = None


class NextStart(NamedTuple):
    """A queued run whose task waits for its turn: it may start in the transaction that gives it the thread,
    with this rollback reference."""

    run_id: str
    rollback_ref: Json


class Outcome(NamedTuple):
    """How a run's task ended. `values` None: those of the thread stay. `interrupts`: what it waits for.
    `log_end`: see `RunRow`."""

    status: RunStatus
    error: str | None = None
    result: Json = None
    values: Json = None
    paused: bool = False
    interrupts: Json = None
    delivered_at: int | None = None
    stopped_at: int | None = None
    log_end: int | None = None


ANY_WORKER = 0
"""In place of a home epoch: any worker that knows the assistant may claim. Epochs begin at 1."""


class Finish(NamedTuple):
    """The answer of finish and settle. `lost`: the guard matched no row, nothing was written. `undo`: a
    rollback was decided first, so the thread stays held until `settle` comes with the restored values.
    `next_home`: the home epoch of the head of the queue; ANY_WORKER where the head is portable and has no
    live home; None where no run waits. `claimed`: the head, which took the thread in the same transaction;
    then `next_home` is None."""

    status: RunStatus | None
    lost: bool = False
    undo: bool = False
    next_home: int | None = None
    decision: Decision | None = None
    claimed: Claimed | None = None


@dataclass(frozen=True, slots=True)
class NewWorker:
    """`proof` names what proves that the worker's process lives; the store fills it in. `assistants`: the
    worker can take over their waiting portable runs."""

    worker_id: str
    host: str
    boot_id: str
    pid: int
    version: str
    ttl_ms: int
    proof: str | None = None
    assistants: tuple[str, ...] = ()
    admits_only: bool = False
    """It executes no runs: those that it admits are dispatched to others."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    epoch: int
    worker_id: str
    host: str
    boot_id: str
    pid: int
    version: str
    state: WorkerState
    hb_seq: int
    ttl_ms: int
    lease_until: int
    fenced_by: int | None
    started_at: int
    holding: int
    expired: bool
    proof: str | None = None
    admits_only: bool = False
    stopping: int = 0  # runs that were cancelled and have not stopped


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run that a sweep ended (`rollback_ref`: only if another storage may have undo data), or adopted: to
    finish its rollback, or to execute the `attempt` of this number. `children`: see `Decision`."""

    run_id: str
    thread_id: str
    status: RunStatus
    dead_epoch: int | None
    adopted: Ownership | None = None
    rollback_ref: Json = None
    decided: bool = False
    children: tuple[Decision, ...] = ()
    attempt: int = 0


class HandedOver(NamedTuple):
    """A waiting portable run that has no home any more, because its worker drains."""

    run_id: str
    thread_id: str


class Overdue(NamedTuple):
    """A run that is past a time limit, of any worker."""

    run_id: str
    cause: Cause


class DrainWish(NamedTuple):
    """`grace`: s; None = as in the settings of the worker that is requested to drain."""

    requested_at: int
    grace: float | None


class DrainRequested(NamedTuple):
    epoch: int
    already: bool
    """It drained before."""


HOMELESS_AT_ONCE = 200  # threads whose next run has no home, that one tick returns at most


@dataclass(frozen=True, slots=True)
class Tick:
    """What a worker reads once a tick: ten index look-ups, and entries of its own runs in flight."""

    cancelled: tuple[str, ...]
    """Runs of this worker that were decided and are not settled."""
    waiting: tuple[str, ...]
    free_threads: tuple[str, ...]
    """Free threads whose next run this worker may claim: its home is here, or it is portable, its home is
    dead, and this worker knows its assistant. Also if that run's time has come, and a claim queues it."""
    overdue: tuple[Overdue, ...] = ()
    """Overdue runs of any worker, at most a batch; usually their own worker was faster."""
    drain: DrainWish | None = None
    """This worker is requested to drain."""
    not_held: frozenset[str] = frozenset()
    """Of the runs that the worker executes, those that do not hold their thread for it: a run that ends at
    this moment, one that the store has lost, and one that another worker continues."""


@dataclass(frozen=True, slots=True)
class RunRow(RunColumns):
    """One row of `runs`: what the run requests, and what has become of it."""

    run_id: str
    status: RunStatus
    paused: bool
    interrupts: Json
    holds_thread: bool
    owner_epoch: int | None
    home_epoch: int | None
    fence: int
    seq: int
    attempt: int
    portable: bool
    cancel_action: CancelAction | None
    cancel_cause: Cause | None
    cancel_reason: str | None
    cancel_actor: str | None
    cancel_requested_at: int | None
    cancel_delivered_at: int | None
    stopped_at: int | None
    settled_at: int | None
    rollback_ref: Json
    rollback_state: str | None
    request_hash: str | None
    result: Json
    error: str | None
    counters: JsonObject
    created_at: str
    started_at: int | None
    ended_at: int | None
    updated_at: int
    deadline_at: int | None = None
    queue_deadline_at: int | None = None
    not_before: int | None = None
    """While the run is delayed: when it joins the queue."""
    log_end: int | None = None
    """The number of the last entry of its event log under its fence, as its owner reported it when it settled
    the run; 0 = it emitted nothing. None = unknown, also if its owner has not settled it."""

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def waiting(self) -> bool:
        queued = self.home_epoch is not None or (self.portable and self.owner_epoch is None)
        return self.status is RunStatus.pending and not self.holds_thread and queued

    @property
    def delayed(self) -> bool:
        return self.waiting and self.not_before is not None

    @property
    def settled(self) -> bool:
        return self.settled_at is not None

    @property
    def between_attempts(self) -> bool:
        """An attempt is over, because its worker died or drains, and the next has not begun."""
        return self.open and self.holds_thread and self.stopped_at is not None

    @property
    def phase(self) -> Phase:
        return phase_of(
            self.status, holds_thread=self.holds_thread, rollback=self.cancel_action is CancelAction.rollback
        )

    @property
    def stopping(self) -> bool:
        """Decided, and its task has not stopped yet (or its rollback is not over)."""
        return not self.open and not self.settled and (self.holds_thread or self.owner_epoch is not None)

    @property
    def cancelling(self) -> bool:
        return self.stopping and self.cancel_action is not None

    @property
    def rolled_back(self) -> bool:
        """Clients do not see the run any more."""
        undone = self.cancel_action is CancelAction.rollback and self.rollback_state != "failed"
        return undone and not self.open and not self.stopping

    @property
    def shown_status(self) -> RunStatus:
        """The status for clients, who take a terminal one to mean that the thread is free."""
        if self.stopping:
            return RunStatus.running
        return RunStatus.error if self.rollback_state == "failed" else self.status


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """A thread with its derived status and error (never stored)."""

    thread_id: str
    user_id: str | None
    assistant_id: str | None
    status: str
    fence: int
    metadata: JsonObject
    values: Json
    interrupts: Json
    created_at: int
    updated_at: int
    state_updated_at: int
    """When its values were last written; as long as they never were, when it was made."""
    error: str | None = None
    """What its last run failed with, while `status` is error."""
    ttl_ms: int | None = None
    temporary: bool = False

    @property
    def expires_at(self) -> int | None:
        """When it is removed if it is not used until then."""
        return None if self.ttl_ms is None else self.updated_at + self.ttl_ms * 1000


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of the audit, written by triggers in commit order. `id` grows in that order; the admission and
    the start of a run share it where they are one transaction."""

    id: int
    run_id: str
    thread_id: str
    at: int
    what: str
    from_status: RunStatus | None
    to_status: RunStatus
    holds_thread: bool
    cause: Cause | None
    actor: str | None
    epoch: int | None
    fence: int
    detail: Json
