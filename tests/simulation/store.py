"""The store as one simulated process sees it: every call is an await point at which anything may happen.

The transactions are the real ones, on one in-memory database that all processes of a world share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

from stores.memory import MemoryStore
from stores.rows import WorkerRow
from stores.sql.sqlite import workers
from tests.support.inside_stores import connection_of

if TYPE_CHECKING:
    from tests.simulation.process import Process

URGENT = frozenset({"decide", "beat"})
ADMISSIONS = frozenset({"admit", "insert"})
LOCKING = ADMISSIONS | frozenset(
    {
        "claim",
        "decide",
        "start",
        "finish",
        "settle",
        "refence",
        "save",
        "restore",
        "delete_thread",
        "readopt",
        "hand_over",
    }
)
"""Calls that lock a thread or one of its runs. Their first argument names it."""
WRITES = LOCKING | frozenset(
    {
        "withdraw",
        "keep_latest_checkpoint",
        "register",
        "drain",
        "request_drain",
        "beat",
        "retire",
        "fence_worker",
        "declare_dead",
        "sweep",
        "put",
        "update_status",
        "update_model_name",
        "update_run_completion",
        "update_run_progress",
        "delete",
        "create_thread",
        "patch_thread",
        "update_extra",
        "delete_run",
        "expire_threads",
        "note_states",
        "claim_removed_states",
        "forget_removed_states",
        "prune",
    }
)
READS = frozenset(
    {
        "claimants",
        "claimable",
        "claimable_children",
        "unclaimed",
        "holder",
        "standing",
        "thread",
        "workers",
        "tick",
        "row",
        "waiting_line",
        "pending_on",
        "runs",
        "transitions",
        "get",
        "list_by_thread",
        "list_inflight",
        "list_pending",
        "threads",
        "count_threads",
        "run",
        "thread_of_key",
        "thread_runs",
        "inflight_runs",
        "started_runs",
        "find_runs",
        "open_run_ids",
        "ids_from",
        "has_expired_threads",
        "removed_state",
        "checkpoints",
    }
)
_HELPERS = frozenset({"_persist", "_in_live_epoch", "<lambda>", "<listcomp>", "write", "deliver", "attempt"})

_TABLES = (
    "transitions",
    "runs",
    "threads",
    "deleted_threads",
    "passing_fences",
    "thread_states",
    "workers",
    "event_logs",
    "run_events",
    "projections",
    "run_changes",
    "sqlite_sequence",
)
_NOTE = (
    "CREATE TEMP TRIGGER sim_note AFTER INSERT ON main.transitions BEGIN SELECT sim_note(NEW.run_id,"
    " NEW.thread_id, NEW.what, NEW.from_status, NEW.to_status, NEW.holds_thread, NEW.cause, NEW.epoch,"
    " NEW.fence, (SELECT home_epoch FROM main.runs WHERE run_id = NEW.run_id)); END"
)

_GONE = "CREATE TEMP TRIGGER sim_gone AFTER DELETE ON main.runs BEGIN SELECT sim_gone(OLD.run_id); END"


class StoreCall(NamedTuple):
    """One call of the store, its time by the store's clock (us), and its answer or error."""

    at: int
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Any
    error: Exception | None


class Database:
    """One database for all seeds that a process of the campaign runs: emptied in between, which costs 50 us.

    If `history` is a list, every call is appended to it, in the order of their execution.
    """

    def __init__(self) -> None:
        self.history: list[StoreCall] | None = None
        self.clock: Callable[[], int] = int
        self.note: Callable[..., None] = _ignore
        self.gone: Callable[..., None] = _ignore
        self.store = MemoryStore(shared=True, clock=self._now)
        self.cx = connection_of(self.store)
        self.cx.create_function("sim_note", 10, self._noted)
        self.cx.execute(_NOTE)
        self.cx.create_function("sim_gone", 1, self._deleted)
        self.cx.execute(_GONE)

    def _now(self) -> int:
        return self.clock()

    def _noted(self, *columns: Any) -> None:
        self.note(*columns)

    def _deleted(self, run_id: str) -> None:
        self.gone(run_id)

    def unsettled(self) -> bool:
        return self.cx.execute("SELECT 1 FROM runs WHERE settled_at IS NULL LIMIT 1").fetchone() is not None

    def workers(self) -> list[WorkerRow]:
        return workers.workers(self.cx, self.clock(), alive_only=True, counted=False)

    def fence(self, peer: WorkerRow) -> bool:
        return self.call("fence_worker", peer, by=0, proven=True)

    def call(self, op: str, *args: Any, **kwargs: Any) -> Any:
        """Executes one transaction, which in memory never waits."""
        if self.history is None:
            return self._call(op, args, kwargs)
        arguments, answer, error = deepcopy((args, kwargs)), None, None
        try:
            answer = self._call(op, args, kwargs)
        except Exception as raised:
            error = raised
            raise
        finally:
            self.history.append(StoreCall(self.clock(), op, *arguments, deepcopy(answer), error))
        return answer

    def _call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            getattr(self.store, op)(*args, **kwargs).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a transaction in memory never waits")

    def close(self) -> None:
        """Frees the database: its connection refers to this object, and the store is kept by a finalizer."""
        self.cx.close()

    def let_go(self) -> None:
        """Drops the references to the world that has used it."""
        self.note = self.gone = _ignore
        self.clock = int

    def empty(self) -> None:
        self.let_go()
        for table in _TABLES:
            self.cx.execute(f"DELETE FROM {table}")


def _ignore(*columns: Any) -> None:
    del columns


class SimStore:
    """Implements `CoordinationStore` for one process. Its methods are made below."""

    durable = True
    shared = True
    url = "simulated://"

    def __init__(self, process: Process) -> None:
        self.process = process

    async def open(self) -> None:
        """Does nothing: there is no connection."""

    async def aclose(self) -> None:
        self.process.store_closed = True

    def proven_dead(self, peer: WorkerRow) -> bool:
        return self.process.world.proven_dead(peer.epoch)

    def proven_alive(self, peer: WorkerRow) -> bool:
        return False  # no worker calls it


def _method(op: str) -> Any:
    async def method(self: SimStore, *args: Any, **kwargs: Any) -> Any:
        process = self.process
        future: asyncio.Future[Any] = process.loop.create_future()
        process.world.request(process, op, await_point(sys._getframe(1)), args, kwargs, future)
        return await future

    method.__name__ = method.__qualname__ = op
    return method


def await_point(frame: Any) -> str:
    """The function of the product that awaits the store."""
    while frame is not None and (frame.f_code.co_name in _HELPERS or "tests/" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_qualname if frame is not None else "?"


for _op in WRITES | READS:
    setattr(SimStore, _op, _method(_op))
