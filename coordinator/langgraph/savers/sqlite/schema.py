"""The tables of a checkpoint file: those of LangGraph's own saver, unchanged, and the coordinator's beside
them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Literal

from stores.errors import StoreRefused
from stores.sql.sqlite.durability import journal_statements_in_memory, make_durable

Synchronous = Literal["FULL", "NORMAL"]

CHECKPOINT = "parent_checkpoint_id, type, checkpoint, metadata"
WRITE = "task_id, task_path, idx, channel, type, value"
"""The columns behind the key (thread_id, checkpoint_ns, checkpoint_id)."""

_OF_LANGGRAPH = """
CREATE TABLE IF NOT EXISTS checkpoints (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    type TEXT,
    checkpoint BLOB,
    metadata BLOB,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);
CREATE TABLE IF NOT EXISTS writes (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    task_path TEXT NOT NULL DEFAULT '',
    idx INTEGER NOT NULL,
    channel TEXT NOT NULL,
    type TEXT,
    value BLOB,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
"""
_TASK_PATH = "ALTER TABLE writes ADD COLUMN task_path TEXT NOT NULL DEFAULT ''"
_OF_COORDINATOR = """
-- The newest fence of each thread. sealed: its run was undone, and must not write again. removed_at: when the
-- thread was deleted (s since 1970).
CREATE TABLE IF NOT EXISTS coordinator_fences (
    thread_id TEXT PRIMARY KEY, fence INTEGER NOT NULL, sealed INTEGER NOT NULL, removed_at INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS coordinator_fences_removed ON coordinator_fences (removed_at)
    WHERE removed_at IS NOT NULL;
-- The checkpoints that a run has written, or written onto. own: absent before.
CREATE TABLE IF NOT EXISTS coordinator_touched (
    thread_id TEXT NOT NULL, run_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    own INTEGER NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS coordinator_touched_run ON coordinator_touched (run_id);
-- The rows as they were before.
CREATE TABLE IF NOT EXISTS coordinator_undo_checkpoints (
    thread_id TEXT NOT NULL, run_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT, type TEXT, checkpoint BLOB, metadata BLOB,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
);
CREATE INDEX IF NOT EXISTS coordinator_undo_checkpoints_run ON coordinator_undo_checkpoints (run_id);
CREATE TABLE IF NOT EXISTS coordinator_undo_writes (
    thread_id TEXT NOT NULL, run_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL, task_path TEXT NOT NULL, idx INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT,
    value BLOB,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
CREATE INDEX IF NOT EXISTS coordinator_undo_writes_run ON coordinator_undo_writes (run_id);
"""
UNDO = ("coordinator_touched", "coordinator_undo_checkpoints", "coordinator_undo_writes")


def prepare(cx: sqlite3.Connection, path: Path, synchronous: Synchronous, patience: float) -> None:
    """For the writer's connection. Bounded by `patience` (s), also where SQLite does not wait: a change of
    the journal mode fails at once if two processes open a new file together. Raises StoreRefused for
    another program's file."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return _prepare(cx, path, synchronous)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _prepare(cx: sqlite3.Connection, path: Path, synchronous: Synchronous) -> None:
    tables = {name for (name,) in cx.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and "checkpoints" not in tables:
        raise StoreRefused(
            f"{str(path)!r} is no file of checkpoints: it has the tables of another program. Checkpoints need"
            " a file of their own"
        )
    make_durable(cx, synchronous)
    cx.execute("PRAGMA journal_mode = WAL")
    cx.execute("BEGIN IMMEDIATE")
    try:
        for script in (_OF_LANGGRAPH, _OF_COORDINATOR):
            for statement in script.split(";"):
                cx.execute(statement)
        if "task_path" not in {name for _, name, *_ in cx.execute("PRAGMA table_info(writes)")}:
            cx.execute(_TASK_PATH)
        cx.execute("COMMIT")
    finally:
        if cx.in_transaction:
            cx.execute("ROLLBACK")
    journal_statements_in_memory(cx)
