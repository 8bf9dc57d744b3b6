"""The operations of the coordination over SQL, independent of the engine and of how its statements are
run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from stores.checkpoints import CheckpointRow
from stores.claims import Claimable, ClaimableQuery, Unclaimed
from stores.client_transactions import ClientTransactions
from stores.events import EventPage, EventsKept, NewEvents, Position
from stores.finding import IdKind, ListPosition, RunQuery
from stores.pruning import PruneCursor, PruneStep, Retention
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
from stores.sql import reads
from stores.states import CancelAction, Cause, RunStatus


class SQLTransactions(ClientTransactions):
    """Every operation is one transaction of the engine: those of the coordination, and by inheritance those
    of clients. Subclasses name the engine, run it, and add the operations for which the engines do not have
    the same function."""

    # -- admission, decisions, ownership

    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        return await self._write(self._sql.admission.admit, request, epoch, limits)

    async def insert(self, request: AdmissionRequest, *, epoch: int) -> Admission:
        return await self._write(self._sql.admission.insert, request, epoch)

    async def claim(self, thread_id: str, *, epoch: int) -> Claimed | None:
        return await self._write(self._sql.admission.claim, thread_id, epoch)

    async def claimants(self, thread_id: str) -> list[int]:
        return await self._read(self._sql.admission.claimants, thread_id)

    async def claimable(self, query: ClaimableQuery, *, epoch: int) -> list[Claimable]:
        return await self._read(self._sql.claims.claimable, self._now(), query, epoch)

    async def claimable_children(self, limit: int, *, epoch: int) -> list[Claimable]:
        return await self._read(self._sql.claims.claimable_children, self._now(), limit, epoch)

    async def unclaimed(self) -> list[Unclaimed]:
        return await self._read(self._sql.claims.unclaimed, self._now())

    async def withdraw(self, run_id: str, *, epoch: int) -> Decision | None:
        return await self._write(self._sql.decisions.withdraw, run_id, epoch)

    async def holder(self, thread_id: str) -> str | None:
        return await self._select(reads.holder(thread_id))

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
        return await self._write_urgent(
            self._sql.decisions.decide,
            run_id,
            status,
            action=action,
            cause=cause,
            reason=reason,
            actor=actor,
            error=error,
            while_waiting=while_waiting,
            home=home,
        )

    async def standing(self, run_id: str) -> Decision | None:
        return await self._read(self._sql.decisions.standing, run_id)

    async def start(self, own: Ownership, rollback_ref: Json) -> Started | None:
        return await self._write(self._sql.ownership.start, own, rollback_ref)

    async def finish(
        self, own: Ownership, outcome: Outcome, *, hold: bool = False, following: NextStart | None = None
    ) -> Finish:
        return await self._write(self._sql.ownership.finish, own, outcome, hold=hold, following=following)

    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish:
        return await self._write(self._sql.ownership.settle, own, outcome, rollback_state)

    async def hand_over(self, own: Ownership) -> Decision | None:
        return await self._write(self._sql.attempts.hand_over, own)

    async def refence(self, own: Ownership) -> Ownership | None:
        return await self._write(self._sql.ownership.refence, own)

    async def readopt(self, own: Ownership) -> Ownership | None:
        return await self._write(self._sql.workers.readopt, own)

    async def save(self, own: Ownership, values: Json, *, last: bool = False) -> None:
        await self._write(self._sql.ownership.save, own, values, last=last)

    async def restore(self, own: Ownership) -> Json:
        return await self._write(self._sql.ownership.restore, own)

    async def delete_thread(self, own: Ownership) -> None:
        await self._write(self._sql.records.delete_thread, own)

    # -- workers

    @cached_property
    def _registered(self) -> dict[int, str]:
        """Worker ids by the epochs that this store object has issued. The number alone may belong to another
        worker, if the store was restored from a backup."""
        return {}

    async def beat(self, epoch: int) -> bool:
        return await self._write_urgent(self._sql.workers.beat, epoch, self._registered.get(epoch))

    async def register(self, worker: NewWorker) -> int:
        epoch = await self._write(self._sql.workers.register, worker)
        self._registered[epoch] = worker.worker_id
        return epoch

    async def drain(self, epoch: int) -> list[HandedOver]:
        return await self._write(self._sql.workers.drain, epoch)

    async def request_drain(self, epoch: int | None, *, grace: float | None) -> list[DrainRequested]:
        grace_ms = None if grace is None else round(grace * 1000)
        return await self._write(self._sql.workers.request_drain, epoch, grace_ms)

    async def fence_worker(self, peer: WorkerRow, *, by: int, proven: bool) -> bool:
        return await self._write(self._sql.workers.fence_worker, peer.epoch, peer.hb_seq, by, proven=proven)

    async def declare_dead(self, epoch: int, *, by: int, actor: str) -> bool:
        return await self._write(self._sql.workers.declare_dead, epoch, by, actor)

    async def workers(self, *, alive_only: bool = True, counted: bool = True) -> list[WorkerRow]:
        read = self._sql.workers.workers
        return await self._read(read, self._now(), alive_only=alive_only, counted=counted)

    async def tick(self, epoch: int, executing: Collection[str] = ()) -> Tick:
        return await self._read(self._sql.reading.tick, epoch, self._now(), executing)

    async def prune(
        self, keep: Retention, *, cursor: PruneCursor | None = None, limit: int = 500, dry_run: bool = False
    ) -> PruneStep:
        if dry_run:
            return await self._read(self._sql.pruning.prune, self._now(), keep, cursor, limit, dry_run=True)
        return await self._write(self._sql.pruning.prune, keep, cursor, limit, dry_run=False)

    def proven_dead(self, peer: WorkerRow) -> bool:
        return False

    def proven_alive(self, peer: WorkerRow) -> bool:
        return False

    # -- event logs

    async def append_events(self, logs: Sequence[NewEvents], *, ttl: float) -> list[EventsKept]:
        return await self._write(self._sql.events.append, logs, round(ttl * 1e6))

    async def events(self, run_id: str, after: Position | None, *, limit: int, max_bytes: int) -> EventPage:
        return await self._read(self._sql.events.events, run_id, after, limit, max_bytes)

    async def log_tops(self, run_ids: Sequence[str]) -> Mapping[str, Position]:
        return await self._read(self._sql.events.tops, run_ids)

    def events_version(self) -> int | None:
        return None

    async def follow_runs(self, run_ids: Sequence[str], *, seconds: float, logs: bool) -> None:
        await self._write(self._sql.events.follow, run_ids, round(seconds * 1e6), logs=logs)

    async def expire_events(self, *, limit: int, max_bytes: int | None) -> int:
        return await self._write(self._sql.events.expire, limit, max_bytes)

    # -- reads

    async def row(self, run_id: str, *, user_id: str | None = None) -> RunRow | None:
        return await self._select(reads.row(run_id, user_id))

    async def waiting_line(self, thread_id: str) -> list[str]:
        return await self._select(reads.waiting_line(thread_id))

    async def pending_on(self, epoch: int) -> list[str]:
        return await self._select(reads.pending_on(epoch))

    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        return await self._read(self._sql.reading.thread, thread_id, user_id)

    async def runs(
        self,
        *,
        thread_id: str | None = None,
        statuses: tuple[str, ...] = (),
        limit: int = 100,
        in_flight: bool = False,
    ) -> list[RunRow]:
        return await self._select(
            reads.runs(thread_id=thread_id, statuses=statuses, limit=limit, in_flight=in_flight)
        )

    async def find_runs(
        self, query: RunQuery, *, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]:
        return await self._search(self._sql.finding.find_runs, query, user_id, behind, limit)

    async def open_run_ids(self, query: RunQuery, *, user_id: str | None, limit: int) -> list[str]:
        return await self._search(self._sql.finding.open_run_ids, query, user_id, limit)

    async def ids_from(self, kind: IdKind, prefix: str, *, limit: int) -> list[str]:
        return await self._select(reads.ids_from(kind, prefix, limit))

    async def transitions(self, run_id: str) -> list[Transition]:
        return await self._select(reads.transitions(run_id))

    async def checkpoints(
        self, thread_id: str, *, run_id: str | None = None, before: str | None = None, limit: int = 10
    ) -> list[CheckpointRow]:
        return await self._read(
            self._sql.checkpoints.checkpoints, thread_id, run_id=run_id, before=before, limit=limit
        )

    async def keep_latest_checkpoint(self, own: Ownership) -> None:
        await self._write(self._sql.checkpoints.keep_latest, own)
