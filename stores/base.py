"""The store's ports: what a durable run store promises.

`RunStore` is the set of record operations that existing gateways implement; subclass it. A store with only
these serves one process (`stores.plain`). The transactions of the coordination itself are the small protocols
below, checked by `isinstance`; `stores.sqlite` and `stores.memory` have all of them. Each is one indivisible
unit: it finishes even if its caller is cancelled, and it may be run again with the same ids.

Errors of every transaction: StoreUnavailable (nothing was acknowledged), StoreRefused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from stores.catalogue import CatalogueStore
from stores.checkpoints import CheckpointStore
from stores.claims import Claimable, ClaimableQuery, Unclaimed
from stores.finding import FindingStore
from stores.json_values import JsonObject
from stores.rows import (
    Admission,
    Claimed,
    Decision,
    DrainRequested,
    Finish,
    HandedOver,
    Json,
    Limits,
    NewWorker,
    NextStart,
    Orphan,
    Outcome,
    Ownership,
    RunRow,
    Started,
    ThreadRow,
    Tick,
    Transition,
    WorkerRow,
)
from stores.spec import AdmissionRequest
from stores.states import CancelAction, Cause, RunStatus

Row = JsonObject
"""A record as plain values: status text, ISO 8601 stamps with "T" and an offset."""

EPOCH_ENDED = "The epoch of its worker ended before this run did: the worker shut down, or lost its lease"
"""The error of runs that were in flight when their worker retired."""


@runtime_checkable
class RecordStore(Protocol):
    """The record operations of a gateway's own store. Signatures are fixed: nothing may be added.

    `update_*` return False where the store can prove that no row took the update (the row does not exist,
    or another decision stands), None where it cannot determine that.
    """

    async def put(self, run_id: str, *, thread_id: str, **fields: Json) -> None:
        """Upsert. Accepts `status=None` (pending), several users and several runs in flight on a
        thread: which user may use a thread is checked by admission, not here."""
        ...

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None: ...
    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]: ...
    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool | None: ...
    async def update_model_name(self, run_id: str, model_name: str | None) -> bool | None: ...
    async def update_run_completion(self, run_id: str, *, status: str, **fields: Json) -> bool | None: ...
    async def update_run_progress(self, run_id: str, **fields: Json) -> bool | None: ...
    async def list_inflight(self, *, before: str | None = None) -> list[Row]: ...
    async def delete(self, run_id: str) -> None: ...


class RunStore:
    """Base class for a gateway's own record store. Override what the store has.

    `update_run_progress` defaults to doing nothing, so that stores without snapshots work.
    """

    async def put(
        self,
        run_id: str,
        *,
        thread_id: str,
        assistant_id: str | None = None,
        user_id: str | None = None,
        status: str | None = "pending",
        multitask_strategy: str = "reject",
        metadata: JsonObject | None = None,
        kwargs: JsonObject | None = None,
        error: str | None = None,
        created_at: str | None = None,
        model_name: str | None = None,
    ) -> None:
        raise NotImplementedError

    async def get(self, run_id: str, *, user_id: str | None = None) -> Row | None:
        raise NotImplementedError

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[Row]:
        raise NotImplementedError

    async def update_status(self, run_id: str, status: str, *, error: str | None = None) -> bool | None:
        raise NotImplementedError

    async def update_model_name(self, run_id: str, model_name: str | None) -> bool | None:
        raise NotImplementedError

    async def update_run_completion(self, run_id: str, *, status: str, **fields: Json) -> bool | None:
        raise NotImplementedError

    async def update_run_progress(self, run_id: str, **fields: Json) -> bool | None:
        return None

    async def list_inflight(self, *, before: str | None = None) -> list[Row]:
        raise NotImplementedError

    async def list_pending(self, *, before: str | None = None) -> list[Row]:
        raise NotImplementedError

    async def delete(self, run_id: str) -> None:
        raise NotImplementedError

    async def aggregate_tokens_by_thread(self, thread_id: str, include_active: bool = False) -> JsonObject:
        raise NotImplementedError


@runtime_checkable
class AdmissionStore(Protocol):
    """How a run gets onto its thread."""

    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        """Lock the thread; the epoch must be live; if the run id or the idempotency key is in use, that run
        is returned; then by strategy: idle -> take the thread with a new fence; `reject` -> ConflictError;
        `enqueue` -> join the queue; `interrupt`, `rollback` -> decide everything in flight and join the
        queue, or take the thread at once if no run holds it. Creates the thread if it does not exist (unless
        `thread_must_exist`: ThreadNotFound). Raises ThreadNotFound for a thread of another user and, unless
        `adopt_thread`, for one without an owner.

        With a delay it neither takes the thread nor joins the queue before its time has come by the store's
        clock; until then it is in flight, and blocks only runs with `reject`.

        Raises ConflictError (also where the id is that of a deleted run whose webhook is kept),
        IdempotencyConflict, QueueFull, ThreadNotFound, EpochDead, CronFired; of the parent that it names
        RunNotFound (also where that is another user's), ParentEnded.
        """
        ...

    async def insert(self, request: AdmissionRequest, *, epoch: int) -> Admission:
        """A pending run of this worker without the one-run-per-thread rule, limits and parent."""
        ...

    async def claim(self, thread_id: str, *, epoch: int) -> Claimed | None:
        """Due runs join the queue; then its head takes the free thread, if this worker may execute it."""
        ...

    async def claimants(self, thread_id: str) -> list[int]:
        """Live workers that may claim the free thread for the head of its queue, a few of the newest. []
        where the thread is held, or no run waits. A read."""
        ...

    async def claimable(self, query: ClaimableQuery, *, epoch: int) -> list[Claimable]:
        """Free threads whose next run has no live home, and that this worker may claim: the oldest of each
        user in turn, then the second of each, and so on. A read."""
        ...

    async def claimable_children(self, limit: int, *, epoch: int) -> list[Claimable]:
        """As `claimable`, of the children of the runs that this worker executes; the oldest first. A read."""
        ...

    async def unclaimed(self) -> list[Unclaimed]:
        """The runs that wait for an assistant that no live worker executes. A read."""
        ...

    async def withdraw(self, run_id: str, *, epoch: int) -> Decision | None:
        """Take back an admission whose caller disconnected: interrupted, settled, the thread is free."""
        ...

    async def holder(self, thread_id: str) -> str | None:
        """The run in flight on the thread: the holder if there is one."""
        ...


@runtime_checkable
class DecisionStore(Protocol):
    async def decide(
        self,
        run_id: str,
        status: RunStatus,
        *,
        action: CancelAction,
        cause: Cause,
        reason: str | None = None,
        actor: str | None = None,
        error: str | None = None,
        while_waiting: bool = False,
        home: int | None = None,
    ) -> Decision | None:
        """Fix the outcome where it is still open (`while_waiting`: and the run waits for its turn; `home`:
        and that epoch is its home, which has not handed it over). Unless it is success, the children in
        flight are cancelled in the same transaction. Overtakes queued writes. None for an unknown run."""
        ...

    async def standing(self, run_id: str) -> Decision | None:
        """How the run stands; a read. None for an unknown run."""
        ...


@runtime_checkable
class OwnershipStore(Protocol):
    """What the owner of a run writes. Every write carries run id, epoch and fence."""

    async def start(self, own: Ownership, rollback_ref: Json) -> Started | None:
        """pending -> running; None = lost. See `Started`. In a further attempt the first start stands."""
        ...

    async def finish(
        self, own: Ownership, outcome: Outcome, *, hold: bool = False, following: NextStart | None = None
    ) -> Finish:
        """Decide, unless that was done, and settle. `hold`: decide only, the task has not stopped.
        `following`: if this run is the head of the queue and this worker its home, an engine may let it take
        the thread and start in the same transaction (see `Finish.claimed`)."""
        ...

    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish: ...
    async def hand_over(self, own: Ownership) -> Decision | None:
        """Its task has stopped undecided: a sweep may adopt it. Idempotent. None = lost, else its state."""
        ...

    async def refence(self, own: Ownership) -> Ownership | None: ...
    async def readopt(self, own: Ownership) -> Ownership | None:
        """A rollback has failed: the next attempt, counted durably, with a new fence; called again with the
        old one, it returns the same. None = the attempts are used up, or the run was lost."""
        ...


@runtime_checkable
class ValuesStore(Protocol):
    """A thread's values, for assistants that keep their state here."""

    async def save(self, own: Ownership, values: Json, *, last: bool = False) -> None:
        """As the running holder. `last`: also while the run holds its thread after it was interrupted or
        timed out, unless it is to be rolled back: once, and the audit has a `saved` row; the same values
        again are the same save. Raises StaleFence."""
        ...

    async def restore(self, own: Ownership) -> Json: ...
    async def delete_thread(self, own: Ownership) -> None: ...
    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        """None where it does not exist, or belongs to another user: then only its owner is read."""
        ...


@runtime_checkable
class WorkerStore(Protocol):
    """Workers: registration, leases, and recovery of the runs of dead ones."""

    async def register(self, worker: NewWorker) -> int:
        """Issue an epoch. Raises StoreRefused where this host must not use the store."""
        ...

    async def beat(self, epoch: int) -> bool:
        """Renew the lease; False = fenced."""
        ...

    async def drain(self, epoch: int) -> list[HandedOver]:
        """Admit nothing for this epoch any more, and take the home from its waiting portable runs: any
        worker may claim them. One transaction; idempotent."""
        ...

    async def request_drain(self, epoch: int | None, *, grace: float | None) -> list[DrainRequested]:
        """Record that this worker (None = every live one) is requested to drain; its tick returns that, the
        last request counts. Returns these workers, in the order of epochs."""
        ...

    async def retire(self, epoch: int, *, error: str = EPOCH_ENDED) -> list[Orphan]:
        """The worker gives up this epoch itself; its undecided runs end with this text, but for those that
        may have a further attempt (see `sweep`)."""
        ...

    async def fence_worker(self, peer: WorkerRow, *, by: int, proven: bool) -> bool:
        """Declare a worker dead by compare-and-set on the heartbeat in `peer`. True where this call did;
        False where it has renewed its lease or is dead already. Unless death is `proven`, its lease must be
        over by the store's clock."""
        ...

    async def declare_dead(self, epoch: int, *, by: int, actor: str) -> bool:
        """Declare a worker dead without evidence, on the word of `actor`. Its writes are refused from here
        on; its tasks continue until it learns of that. False = it is dead already, or unknown."""
        ...

    async def sweep(self, *, by: int, error: str, before: str | None = None) -> list[Orphan]:
        """End orphaned runs; adopt half-done rollbacks and, for their next `attempt`, portable holders that
        have `retries`, have not started, or were handed over. Those whose assistant `by` does not know wait
        for another worker."""
        ...

    async def workers(self, *, alive_only: bool = True, counted: bool = True) -> list[WorkerRow]:
        """Oldest first. `counted=False` leaves `holding` and `stopping` at 0: counting reads every
        thread that is held."""
        ...

    async def tick(self, epoch: int, executing: Collection[str] = ()) -> Tick:
        """`executing`: runs of this worker that `Tick.not_held` is about."""
        ...

    def proven_dead(self, peer: WorkerRow) -> bool:
        """Does the operating system prove that the peer's process has ended? False = unknown."""
        ...

    def proven_alive(self, peer: WorkerRow) -> bool:
        """Does the operating system prove that the peer's process exists? (It may hang.) False = unknown."""
        ...


@runtime_checkable
class ReadStore(Protocol):
    async def row(self, run_id: str, *, user_id: str | None = None) -> RunRow | None:
        """Includes operations and runs that were rolled back. None for an unknown run, or one of another
        user."""
        ...

    async def waiting_line(self, thread_id: str) -> list[str]: ...
    async def pending_on(self, epoch: int) -> list[str]:
        """The runs that hold their thread on that worker and have not started, as a worker serves them: users
        in turn, the runs of each by age."""
        ...

    async def runs(
        self,
        *,
        thread_id: str | None = None,
        statuses: tuple[str, ...] = (),
        limit: int = 100,
        in_flight: bool = False,
    ) -> list[RunRow]: ...
    async def transitions(self, run_id: str) -> list[Transition]: ...
    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        """None where it does not exist, or belongs to another user: then only its owner is read."""
        ...


@runtime_checkable
class CoordinationStore(
    RecordStore,
    AdmissionStore,
    DecisionStore,
    OwnershipStore,
    ValuesStore,
    WorkerStore,
    ReadStore,
    CatalogueStore,
    FindingStore,
    CheckpointStore,
    Protocol,
):
    """All ports. `durable`: rows outlive this process. `url`: for display, without secrets."""

    @property
    def durable(self) -> bool: ...
    @property
    def shared(self) -> bool:
        """May other workers use the same rows? If not, no heartbeat is needed."""
        ...

    @property
    def url(self) -> str: ...
    async def open(self) -> None: ...
    async def aclose(self) -> None: ...
