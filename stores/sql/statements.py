"""The statements of an engine: for every operation of the store's ports, one transaction or one read.

Each Protocol here is a module of an engine's package, with the arguments and the answers of its operations.
The engine's own functions differ from that in one way each:

    SQLite      def row(cx: sqlite3.Connection, run_id: str, ...) -> RunRow     runs on the connection
    PostgreSQL  def row(run_id: str, ...) -> Call[RunRow]                       describes the call to be made

A transaction takes its time (us) as `now`, before its arguments: the store passes it, at the moment at which
the transaction is run. PostgreSQL's take None too, for the server's clock.

The type checker compares the modules of both engines with these Protocols, and each use of a function in
`stores.transactions` as well. It does not see what columns a row has: `Call.answer` reads rows of `Column`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from stores.catalogue import Heavy, RemovedThread, ThreadQuery
from stores.checkpoints import CheckpointRow
from stores.claims import Claimable, ClaimableQuery, Unclaimed
from stores.events import EventPage, EventsKept, NewEvents, Position
from stores.finding import ListPosition, RunQuery
from stores.json_values import JsonMapping
from stores.pages import Page
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
    WorkerRow,
)
from stores.spec import AdmissionRequest
from stores.sql.client_statements import (
    AssistantStatements,
    CronStatements,
    ProjectionStatements,
    WebhookStatements,
)
from stores.sql.select import Select
from stores.sql.statement import T, statement
from stores.states import CancelAction, Cause, RunStatus
from stores.thread_states import RemovedState


class AdmissionStatements(Protocol):
    @statement
    @staticmethod
    def admit(now: int, request: AdmissionRequest, epoch: int, limits: Limits) -> Admission: ...
    @statement
    @staticmethod
    def insert(now: int, request: AdmissionRequest, epoch: int) -> Admission: ...
    @statement
    @staticmethod
    def claim(now: int, thread_id: str, epoch: int) -> Claimed | None: ...
    @statement
    @staticmethod
    def claimants(thread_id: str) -> list[int]: ...


class AttemptStatements(Protocol):
    @statement
    @staticmethod
    def hand_over(now: int, own: Ownership) -> Decision | None: ...


class CheckpointStatements(Protocol):
    @statement
    @staticmethod
    def checkpoints(
        thread_id: str, *, run_id: str | None, before: str | None, limit: int
    ) -> list[CheckpointRow]: ...
    @statement
    @staticmethod
    def keep_latest(now: int, own: Ownership) -> None: ...


class ClaimStatements(Protocol):
    @statement
    @staticmethod
    def claimable(now: int, query: ClaimableQuery, epoch: int) -> list[Claimable]: ...
    @statement
    @staticmethod
    def claimable_children(now: int, limit: int, epoch: int) -> list[Claimable]: ...
    @statement
    @staticmethod
    def unclaimed(now: int) -> list[Unclaimed]: ...


class DecisionStatements(Protocol):
    @statement
    @staticmethod
    def withdraw(now: int, run_id: str, epoch: int) -> Decision | None: ...
    @statement
    @staticmethod
    def decide(
        now: int,
        run_id: str,
        status: RunStatus,
        *,
        action: CancelAction,
        cause: Cause,
        reason: str | None,
        actor: str | None,
        error: str | None,
        while_waiting: bool,
        home: int | None,
    ) -> Decision | None: ...
    @statement
    @staticmethod
    def standing(run_id: str) -> Decision | None: ...


class EventStatements(Protocol):
    @statement
    @staticmethod
    def append(now: int, logs: Sequence[NewEvents], ttl_us: int) -> list[EventsKept]: ...
    @statement
    @staticmethod
    def events(run_id: str, after: Position | None, limit: int, max_bytes: int) -> EventPage: ...
    @statement
    @staticmethod
    def tops(run_ids: Sequence[str]) -> dict[str, Position]: ...
    @statement
    @staticmethod
    def follow(now: int, run_ids: Sequence[str], seconds_us: int, *, logs: bool) -> None: ...
    @statement
    @staticmethod
    def expire(now: int, limit: int, max_bytes: int | None) -> int: ...


class FindingStatements(Protocol):
    @statement
    @staticmethod
    def find_runs(
        query: RunQuery, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]: ...
    @statement
    @staticmethod
    def open_run_ids(query: RunQuery, user_id: str | None, limit: int) -> list[str]: ...


class HistoryStatements(Protocol):
    @statement
    @staticmethod
    def thread_runs(
        thread_id: str,
        *,
        statuses: tuple[str, ...],
        limit: int,
        offset: int,
        user_id: str | None,
        without: frozenset[Heavy],
        max_bytes: int | None,
    ) -> Page[RunRow]: ...
    @statement
    @staticmethod
    def delete_run(now: int, run_id: str, thread_id: str | None, user_id: str | None) -> RunRow: ...


class OwnershipStatements(Protocol):
    @statement
    @staticmethod
    def start(now: int, own: Ownership, rollback_ref: Json) -> Started | None: ...
    @statement
    @staticmethod
    def finish(
        now: int, own: Ownership, outcome: Outcome, *, hold: bool, following: NextStart | None
    ) -> Finish: ...
    @statement
    @staticmethod
    def settle(now: int, own: Ownership, outcome: Outcome, rollback_state: str | None) -> Finish: ...
    @statement
    @staticmethod
    def refence(now: int, own: Ownership) -> Ownership | None: ...
    @statement
    @staticmethod
    def save(now: int, own: Ownership, values: Json, *, last: bool) -> None: ...
    @statement
    @staticmethod
    def restore(now: int, own: Ownership) -> Json: ...


class PruningStatements(Protocol):
    @statement
    @staticmethod
    def prune(
        now: int, keep: Retention, cursor: PruneCursor | None, limit: int, *, dry_run: bool
    ) -> PruneStep: ...


class ReadingStatements(Protocol):
    @statement
    @staticmethod
    def tick(epoch: int, now: int, executing: Collection[str]) -> Tick: ...
    @statement
    @staticmethod
    def thread(thread_id: str, user_id: str | None) -> ThreadRow | None: ...


class SelectingStatements(Protocol):
    @statement
    @staticmethod
    def select(read: Select[T]) -> T: ...


class RecordStatements(Protocol):
    @statement
    @staticmethod
    def delete_thread(now: int, own: Ownership) -> None: ...
    @statement
    @staticmethod
    def put(now: int, run_id: str, fields: JsonMapping) -> None: ...
    @statement
    @staticmethod
    def update_status(now: int, run_id: str, status: str, error: str | None) -> bool: ...
    @statement
    @staticmethod
    def update_model_name(now: int, run_id: str, model_name: str | None) -> bool: ...
    @statement
    @staticmethod
    def update_completion(now: int, run_id: str, status: str | None, fields: JsonMapping) -> bool: ...
    @statement
    @staticmethod
    def update_progress(now: int, run_id: str, fields: JsonMapping) -> bool: ...
    @statement
    @staticmethod
    def delete(now: int, run_id: str) -> None: ...


class ThreadStateStatements(Protocol):
    @statement
    @staticmethod
    def note_states(now: int, own: Ownership, kinds: Sequence[str]) -> None: ...
    @statement
    @staticmethod
    def claim(now: int, kinds: Sequence[str], limit: int) -> list[RemovedState]: ...
    @statement
    @staticmethod
    def forget(now: int, states: Sequence[RemovedState]) -> None: ...
    @statement
    @staticmethod
    def removed(thread_id: str, kind: str) -> RemovedState | None: ...


class ThreadStatements(Protocol):
    @statement
    @staticmethod
    def threads(query: ThreadQuery, user_id: str | None) -> Page[ThreadRow]: ...
    @statement
    @staticmethod
    def count_threads(query: ThreadQuery, user_id: str | None) -> int: ...
    @statement
    @staticmethod
    def has_expired_threads(now: int) -> bool: ...
    @statement
    @staticmethod
    def expire_threads(now: int, limit: int) -> list[RemovedThread]: ...


class WorkerStatements(Protocol):
    @statement
    @staticmethod
    def readopt(now: int, own: Ownership) -> Ownership | None: ...
    @statement
    @staticmethod
    def beat(now: int, epoch: int, worker_id: str | None) -> bool: ...
    @statement
    @staticmethod
    def register(now: int, worker: NewWorker) -> int: ...
    @statement
    @staticmethod
    def drain(now: int, epoch: int) -> list[HandedOver]: ...
    @statement
    @staticmethod
    def request_drain(now: int, epoch: int | None, grace_ms: int | None) -> list[DrainRequested]: ...
    @statement
    @staticmethod
    def fence_worker(now: int, epoch: int, hb_seq: int, by: int, *, proven: bool) -> bool: ...
    @statement
    @staticmethod
    def declare_dead(now: int, epoch: int, by: int, actor: str) -> bool: ...
    @statement
    @staticmethod
    def workers(now: int, *, alive_only: bool, counted: bool) -> list[WorkerRow]: ...


class Statements(NamedTuple):
    """The modules of one engine. Modules, and not objects: a test may replace one function to weaken the
    store."""

    admission: AdmissionStatements
    assistants: AssistantStatements
    attempts: AttemptStatements
    checkpoints: CheckpointStatements
    claims: ClaimStatements
    crons: CronStatements
    decisions: DecisionStatements
    events: EventStatements
    finding: FindingStatements
    history: HistoryStatements
    ownership: OwnershipStatements
    projections: ProjectionStatements
    pruning: PruningStatements
    reading: ReadingStatements
    records: RecordStatements
    selecting: SelectingStatements
    thread_states: ThreadStateStatements
    threads: ThreadStatements
    webhooks: WebhookStatements
    workers: WorkerStatements
