"""Where a graph keeps its state: checkpoints in a database of their own, with fences and an undo log.

What is special about graphs is here on purpose. A resumed run writes onto a checkpoint of an earlier run. The
newest checkpoint is the one with the greatest time-ordered id. Writes are jobs of a thread, and land after
the await of their caller was cancelled.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from coordinator.clock import wall
from coordinator.errors import StaleFence
from coordinator.schemas import Json

_SCHEMA = """
CREATE TABLE IF NOT EXISTS fences (thread_id TEXT PRIMARY KEY, fence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
    thread_id TEXT, checkpoint_id TEXT, run_id TEXT NOT NULL, row TEXT NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_id));
CREATE TABLE IF NOT EXISTS undo (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, thread_id TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    row TEXT);
CREATE INDEX IF NOT EXISTS undo_run ON undo (run_id);
"""

CLOCK_PATIENCE = 2.0
"""s. So far a host's clock may be behind the thread's newest checkpoint: a run waits that out."""


class ClockBehind(RuntimeError):
    """What the run writes would be older than what is there already, and lost for the thread."""


class Writer(NamedTuple):
    """The guard of a write."""

    thread_id: str
    run_id: str
    fence: int


@dataclass(frozen=True)
class Checkpoint:
    """`plan`: what is left to do, and with what. `question`: of its step, `answer`: the caller's to it."""

    checkpoint_id: str
    run_id: str
    values: dict[str, Any]
    plan: dict[str, Any]
    parent_id: str | None = None
    question: Json = None
    answer: Json = None
    answered: bool = False
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    created_us: int = 0

    @property
    def left(self) -> bool:
        return self.plan.get("next", 0) <= self.plan.get("steps", -1)


class CheckpointStates:
    """`path`: one file for all processes of a host, like the run store's."""

    kind = "graphlike"

    def __init__(self, path: Path | str, *, clock: Callable[[], int] = wall) -> None:
        self._path, self._clock = str(path), clock
        self._open: dict[str, int] = {}
        self._last = 0
        self._lock = Lock()
        self.is_open = False
        with self._connected() as cx:
            cx.execute("PRAGMA journal_mode = WAL")
            cx.executescript(_SCHEMA)

    # -- the port

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        head = await asyncio.to_thread(self._advance, thread_id, fence)
        behind = 0.0 if head is None else (head.created_us - self._clock()) / 1e6
        if behind > CLOCK_PATIENCE:
            raise ClockBehind(f"the clock is {behind:.1f} s behind the newest checkpoint of {thread_id!r}")
        if behind > 0:
            await asyncio.sleep(behind)
        self._open[thread_id] = fence
        return {"kind": self.kind, "head": None if head is None else head.checkpoint_id}

    def close(self, thread_id: str, fence: int) -> None:
        if self._open.get(thread_id) == fence:
            del self._open[thread_id]

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        del ref  # the undo log knows more than where the head was
        return await asyncio.to_thread(self._restore, thread_id, run_id, fence)

    async def forget(self, run_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self._forget, tuple(run_ids))

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        await asyncio.to_thread(self._copy, source, target, fence)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        await asyncio.to_thread(self._delete, thread_id, fence)

    # -- for the assistant

    async def get(self, thread_id: str, checkpoint_id: str | None = None) -> Checkpoint | None:
        """The newest one, or one of them."""
        checkpoints = await self.all(thread_id)
        if checkpoint_id is None:
            return checkpoints[0] if checkpoints else None
        return next((each for each in checkpoints if each.checkpoint_id == checkpoint_id), None)

    async def all(self, thread_id: str) -> list[Checkpoint]:
        """Newest first."""
        return await asyncio.to_thread(self._all, thread_id)

    def new_id(self) -> tuple[str, int]:
        """One that is greater than all of this process before it, and its time."""
        with self._lock:
            self._last = max(self._clock(), self._last + 1)
            return f"{self._last:016x}", self._last

    def write(self, writer: Writer, checkpoint: Checkpoint, slowly: float = 0.0) -> None:
        """Put it there, new or in place of what it was. Blocks. Raises StaleFence."""
        time.sleep(slowly)
        with self._transaction() as cx:
            self._check(cx, writer)
            key = (writer.thread_id, checkpoint.checkpoint_id)
            old = cx.execute(_SELECT, key).fetchone()
            cx.execute(
                "INSERT INTO undo (run_id, thread_id, checkpoint_id, row) VALUES (?, ?, ?, ?)",
                (writer.run_id, *key, None if old is None else old[0]),
            )
            _put(cx, writer.thread_id, checkpoint.checkpoint_id, json.dumps(asdict(checkpoint)))

    def dump(self) -> list[tuple[Any, ...]]:
        """Every row of every thread, to compare what was with what is."""
        with self._connected() as cx:
            return cx.execute("SELECT * FROM checkpoints ORDER BY thread_id, checkpoint_id").fetchall()

    def undo_log(self) -> list[tuple[str, str]]:
        """Run and thread of every row of the undo log."""
        with self._connected() as cx:
            return cx.execute("SELECT run_id, thread_id FROM undo ORDER BY id").fetchall()

    # -- in a thread

    def _check(self, cx: sqlite3.Connection, writer: Writer) -> None:
        """In the transaction that writes: before it, it would be no fence."""
        row = cx.execute("SELECT fence FROM fences WHERE thread_id = ?", (writer.thread_id,)).fetchone()
        newest = 0 if row is None else row[0]
        if newest > writer.fence or self._open.get(writer.thread_id) != writer.fence:
            raise StaleFence(writer.thread_id, writer.fence)

    def _advance(self, thread_id: str, fence: int) -> Checkpoint | None:
        with self._transaction() as cx:
            _raise_fence(cx, thread_id, fence)
            checkpoints = _rows(cx, thread_id)
            return checkpoints[0] if checkpoints else None

    def _restore(self, thread_id: str, run_id: str, fence: int) -> Json:
        with self._transaction() as cx:
            _raise_fence(cx, thread_id, fence)
            log = cx.execute(
                "SELECT checkpoint_id, row FROM undo WHERE run_id = ? AND thread_id = ? ORDER BY id DESC",
                (run_id, thread_id),
            ).fetchall()
            for checkpoint_id, row in log:
                if row is None:
                    cx.execute(_DELETE, (thread_id, checkpoint_id))
                else:
                    _put(cx, thread_id, checkpoint_id, row)
            checkpoints = _rows(cx, thread_id)
            return checkpoints[0].values if checkpoints else None

    def _forget(self, run_ids: tuple[str, ...]) -> None:
        with self._transaction() as cx:
            cx.executemany("DELETE FROM undo WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    def _delete(self, thread_id: str, fence: int) -> None:
        with self._transaction() as cx:
            _raise_fence(cx, thread_id, fence)
            cx.execute("DELETE FROM checkpoints WHERE thread_id = ?", (thread_id,))
            cx.execute("DELETE FROM undo WHERE thread_id = ?", (thread_id,))

    def _copy(self, source: str, target: str, fence: int) -> None:
        with self._transaction() as cx:
            _raise_fence(cx, target, fence)
            cx.execute("DELETE FROM checkpoints WHERE thread_id = ?", (target,))
            cx.execute(
                "INSERT INTO checkpoints SELECT ?, checkpoint_id, run_id, row FROM checkpoints"
                " WHERE thread_id = ?",
                (target, source),
            )

    def _all(self, thread_id: str) -> list[Checkpoint]:
        with self._connected() as cx:
            return _rows(cx, thread_id)

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._connected() as cx:
            cx.execute("BEGIN IMMEDIATE")
            try:
                yield cx
                cx.execute("COMMIT")
            finally:
                if cx.in_transaction:
                    cx.execute("ROLLBACK")

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as cx:
            cx.execute("PRAGMA synchronous = OFF")
            yield cx


_SELECT = "SELECT row FROM checkpoints WHERE thread_id = ? AND checkpoint_id = ?"
_DELETE = "DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_id = ?"


def _put(cx: sqlite3.Connection, thread_id: str, checkpoint_id: str, row: str) -> None:
    cx.execute(
        "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)",
        (thread_id, checkpoint_id, json.loads(row)["run_id"], row),
    )


def _rows(cx: sqlite3.Connection, thread_id: str) -> list[Checkpoint]:
    known = {each.name for each in fields(Checkpoint)}
    rows = cx.execute(
        "SELECT row FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id DESC", (thread_id,)
    )
    loaded: list[dict[str, Any]] = [json.loads(row) for (row,) in rows]
    return [Checkpoint(**{name: row[name] for name in row if name in known}) for row in loaded]


def _raise_fence(cx: sqlite3.Connection, thread_id: str, fence: int) -> None:
    """From here on lower ones are refused. Raises StaleFence where this one is."""
    (newest,) = cx.execute(
        "INSERT INTO fences VALUES (?, ?) ON CONFLICT (thread_id)"
        " DO UPDATE SET fence = MAX(fence, excluded.fence) RETURNING fence",
        (thread_id, fence),
    ).fetchone()
    if newest > fence:
        raise StaleFence(thread_id, fence)
