"""The transactions of a checkpoint file. Each checks the fence before it writes; `write` does so for the
writes of a run.

Functions on a connection with an open transaction; the caller commits. A refusal writes nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence

from coordinator.errors import StaleFence
from coordinator.langgraph.savers.fences import OpenFences, Writer
from coordinator.langgraph.savers.heads import LARGEST
from coordinator.langgraph.savers.records import CheckpointKey, Position, StoredCheckpoint, Write
from coordinator.langgraph.savers.sqlite import reading
from coordinator.langgraph.savers.sqlite.schema import CHECKPOINT, UNDO, WRITE
from coordinator.langgraph.savers.storage import PURGED_AT_ONCE, TOMBSTONES_KEPT, Head

_KEY = "thread_id, checkpoint_ns, checkpoint_id"
_HERE = "thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_RUN = "thread_id = ? AND run_id = ?"


def write(
    cx: sqlite3.Connection,
    fences: OpenFences,
    writer: Writer,
    writes: Iterable[Callable[[sqlite3.Connection], None]],
) -> None:
    """Writes all or nothing. Raises StaleFence if the fence was closed in this process, or is not the newest
    in the file."""
    fences.check(writer.thread_id, writer.fence)
    row = cx.execute(
        "SELECT 1 FROM coordinator_fences WHERE thread_id = ? AND fence = ? AND NOT sealed",
        (writer.thread_id, writer.fence),
    ).fetchone()
    if row is None:
        raise StaleFence(writer.thread_id, writer.fence)
    for one in writes:
        one(cx)


def put_checkpoint(writer: Writer, row: StoredCheckpoint, cx: sqlite3.Connection) -> None:
    if not _touch(cx, writer, row.key):
        cx.execute(
            f"INSERT OR IGNORE INTO coordinator_undo_checkpoints (run_id, {_KEY}, {CHECKPOINT})"
            f" SELECT ?, {_KEY}, {CHECKPOINT} FROM checkpoints WHERE {_HERE}",
            (writer.run_id, *row.key),
        )
    cx.execute(
        f"INSERT OR REPLACE INTO checkpoints ({_KEY}, {CHECKPOINT}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*row.key, row.parent_id, row.type, row.checkpoint, row.metadata),
    )


def put_writes(
    writer: Writer, key: CheckpointKey, writes: Sequence[Write], cx: sqlite3.Connection, *, replace: bool
) -> None:
    _touch(cx, writer, key)
    verb = "REPLACE" if replace else "IGNORE"
    cx.executemany(
        f"INSERT OR {verb} INTO writes ({_KEY}, {WRITE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*key, *write) for write in writes],
    )


def remove_thread(writer: Writer, cx: sqlite3.Connection) -> None:
    """Removes all checkpoints of the thread as a part of the run, which can be undone."""
    keys = cx.execute(
        f"SELECT {_KEY} FROM checkpoints WHERE thread_id = ?1"
        f" UNION SELECT {_KEY} FROM writes WHERE thread_id = ?1",
        (writer.thread_id,),
    )
    for key in [CheckpointKey(*row) for row in keys]:
        if not _touch(cx, writer, key):
            cx.execute(
                f"INSERT OR IGNORE INTO coordinator_undo_checkpoints (run_id, {_KEY}, {CHECKPOINT})"
                f" SELECT ?, {_KEY}, {CHECKPOINT} FROM checkpoints WHERE {_HERE}",
                (writer.run_id, *key),
            )
    _clear(cx, writer.thread_id)


def _touch(cx: sqlite3.Connection, writer: Writer, key: CheckpointKey) -> bool:
    """Records that the run writes to the checkpoint; before its first write, copies the writes that exist.
    Returns whether the checkpoint is the run's own."""
    row = cx.execute(
        "INSERT INTO coordinator_touched"
        " SELECT ?1, ?2, ?3, ?4, NOT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = ?1"
        " AND checkpoint_ns = ?3 AND checkpoint_id = ?4) WHERE true"
        " ON CONFLICT DO NOTHING RETURNING own",
        (key.thread_id, writer.run_id, key.checkpoint_ns, key.checkpoint_id),
    ).fetchone()
    if row is None:  # touched before
        row = cx.execute(
            f"SELECT own FROM coordinator_touched WHERE {_RUN} AND checkpoint_ns = ? AND checkpoint_id = ?",
            (key.thread_id, writer.run_id, key.checkpoint_ns, key.checkpoint_id),
        ).fetchone()
    else:
        cx.execute(
            f"INSERT INTO coordinator_undo_writes (run_id, {_KEY}, {WRITE})"
            f" SELECT ?, {_KEY}, {WRITE} FROM writes WHERE {_HERE}",
            (writer.run_id, *key),
        )
    return bool(row[0])


# -- the port


_NEWEST = """
WITH RECURSIVE namespaces (ns) AS (
    SELECT (SELECT min(checkpoint_ns) FROM checkpoints WHERE thread_id = ?1)
    UNION ALL
    SELECT (SELECT min(checkpoint_ns) FROM checkpoints WHERE thread_id = ?1 AND checkpoint_ns > ns)
    FROM namespaces WHERE ns IS NOT NULL
)
SELECT max((SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?1 AND checkpoint_ns = ns))
FROM namespaces WHERE ns IS NOT NULL
"""
"""One step in the index for each namespace: a thread has more checkpoints than namespaces."""


def begin(cx: sqlite3.Connection, thread_id: str, run_id: str, fence: int) -> Head:
    """Advances the fence, and removes the undo data of earlier runs, which have settled: this run holds the
    thread. Raises StaleFence."""
    advance(cx, thread_id, fence)
    for table in UNDO:
        cx.execute(f"DELETE FROM {table} WHERE thread_id = ? AND run_id <> ?", (thread_id, run_id))
    (newest_id,) = cx.execute(_NEWEST, (thread_id,)).fetchone()
    row = cx.execute(
        "SELECT checkpoint_id, json_extract(CAST(metadata AS TEXT), '$.run_id'), length(checkpoint)"
        " FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1",
        (thread_id,),
    ).fetchone()
    if row is None:
        return Head(newest_id=newest_id)
    head_id, head_run_id, size = row
    head = reading.one(cx, Position(thread_id, "", head_id)) if size <= LARGEST else None
    return Head(head_id, head_run_id, newest_id, head)


def undo(cx: sqlite3.Connection, thread_id: str, run_id: str, fence: int) -> None:
    """Puts all rows back as they were before the run, and seals the fence. Raises StaleFence."""
    advance(cx, thread_id, fence, sealed=True)
    run = thread_id, run_id
    touched = cx.execute(f"SELECT {_KEY}, own FROM coordinator_touched WHERE {_RUN}", run).fetchall()
    copied = cx.execute(f"SELECT {_KEY} FROM coordinator_undo_checkpoints WHERE {_RUN}", run).fetchall()
    written = [key for *key, own in touched if own] + copied
    cx.executemany(f"DELETE FROM checkpoints WHERE {_HERE}", written)
    cx.executemany(f"DELETE FROM writes WHERE {_HERE}", [key for *key, _ in touched])
    for table, undo_table, columns in (
        ("checkpoints", "coordinator_undo_checkpoints", CHECKPOINT),
        ("writes", "coordinator_undo_writes", WRITE),
    ):
        rest = f"{_KEY}, {columns}"
        cx.execute(f"INSERT INTO {table} ({rest}) SELECT {rest} FROM {undo_table} WHERE {_RUN}", run)


def forget(cx: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    for table in UNDO:
        cx.executemany(f"DELETE FROM {table} WHERE run_id = ?", [(run_id,) for run_id in run_ids])


def copy(cx: sqlite3.Connection, source: str, target: str, fence: int) -> None:
    """Raises StaleFence."""
    advance(cx, target, fence)
    _clear(cx, target)
    for table, columns in (("checkpoints", CHECKPOINT), ("writes", WRITE)):
        rest = f"checkpoint_ns, checkpoint_id, {columns}"
        cx.execute(
            f"INSERT INTO {table} (thread_id, {rest}) SELECT ?, {rest} FROM {table} WHERE thread_id = ?",
            (target, source),
        )


def delete(cx: sqlite3.Connection, thread_id: str, fence: int) -> None:
    """Raises StaleFence if a newer run has opened the thread."""
    advance(cx, thread_id, fence, sealed=True)
    _clear(cx, thread_id)
    for table in UNDO:
        cx.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,))
    now = int(time.time())
    cx.execute("UPDATE coordinator_fences SET removed_at = ? WHERE thread_id = ?", (now, thread_id))
    cx.execute(_PURGE, (now - TOMBSTONES_KEPT, PURGED_AT_ONCE))


_PURGE = """
DELETE FROM coordinator_fences WHERE thread_id IN (
    SELECT thread_id FROM coordinator_fences WHERE removed_at < ? ORDER BY removed_at LIMIT ?
)
"""


def _clear(cx: sqlite3.Connection, thread_id: str) -> None:
    for table in ("checkpoints", "writes"):
        cx.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,))


def advance(cx: sqlite3.Connection, thread_id: str, fence: int, *, sealed: bool = False) -> None:
    """From here on, lower fences are refused. Raises StaleFence if this one is lower, or was sealed."""
    _check_not_newer(cx, thread_id, fence)
    row = cx.execute(
        "INSERT INTO coordinator_fences VALUES (?1, ?2, ?3, NULL) ON CONFLICT (thread_id)"
        " DO UPDATE SET fence = ?2, sealed = ?3, removed_at = NULL"
        " WHERE fence < ?2 OR NOT sealed OR ?3 OR removed_at IS NOT NULL RETURNING 1",
        (thread_id, fence, sealed),
    ).fetchone()
    if row is None:
        raise StaleFence(thread_id, fence)


def _check_not_newer(cx: sqlite3.Connection, thread_id: str, fence: int) -> None:
    row = cx.execute("SELECT fence FROM coordinator_fences WHERE thread_id = ?", (thread_id,)).fetchone()
    if row is not None and row[0] > fence:
        raise StaleFence(thread_id, fence)
