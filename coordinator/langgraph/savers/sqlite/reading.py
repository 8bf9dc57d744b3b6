"""The reads of a checkpoint file: functions on a connection."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from coordinator.langgraph.savers.records import CheckpointKey, Position, StoredCheckpoint, Write
from coordinator.langgraph.savers.sqlite.schema import CHECKPOINT, WRITE
from coordinator.langgraph.savers.traces import INTERRUPT, NULL_TASK, Row

_COLUMNS = f"thread_id, checkpoint_ns, checkpoint_id, {CHECKPOINT}"
_FILTER_KEY = re.compile(r"[a-zA-Z0-9_.-]+")


def checkpoint(cx: sqlite3.Connection, position: Position) -> StoredCheckpoint | None:
    """One checkpoint with its writes, both of one moment."""
    cx.execute("BEGIN")
    try:
        return one(cx, position)
    finally:
        cx.execute("COMMIT")


def one(cx: sqlite3.Connection, position: Position) -> StoredCheckpoint | None:
    """As `checkpoint`, within a transaction."""
    which = "ORDER BY checkpoint_id DESC LIMIT 1"
    args = [position.thread_id, position.namespace]
    if position.checkpoint_id is not None:
        which = "AND checkpoint_id = ?"
        args.append(position.checkpoint_id)
    row = cx.execute(
        f"SELECT {_COLUMNS} FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? {which}", args
    ).fetchone()
    return None if row is None else _complete(cx, row)


class Filter(NamedTuple):
    """Conditions of a list, and their values."""

    conditions: tuple[str, ...]
    values: tuple[object, ...]


def filter_of(position: Position | None, metadata: Mapping[str, object], before_id: str | None) -> Filter:
    """Raises ValueError for a key of the metadata that is no path of names."""
    terms: list[tuple[str, object]] = []
    if position is not None:
        terms.append(("thread_id = ?", position.thread_id))
        if position.checkpoint_ns is not None:
            terms.append(("checkpoint_ns = ?", position.checkpoint_ns))
        if position.checkpoint_id is not None:
            terms.append(("checkpoint_id = ?", position.checkpoint_id))
    for key, value in metadata.items():
        if not _FILTER_KEY.fullmatch(key):
            raise ValueError(f"Invalid filter key {key!r}: letters, digits, '_', '.' and '-' are allowed")
        terms.append((f"json_extract(CAST(metadata AS TEXT), '$.{key}') IS ?", _comparable(value)))
    if before_id is not None:
        terms.append(("checkpoint_id < ?", before_id))
    return Filter(tuple(term for term, _ in terms), tuple(value for _, value in terms))


def _comparable(value: object) -> object:
    """As json_extract returns it."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def page(
    cx: sqlite3.Connection, where: Filter, after: CheckpointKey | None, limit: int
) -> list[StoredCheckpoint]:
    """At most `limit` checkpoints, newest first, that follow `after` in the list."""
    conditions, values = list(where.conditions), list(where.values)
    if after is not None:
        conditions.append("(checkpoint_id, thread_id, checkpoint_ns) < (?, ?, ?)")
        values += [after.checkpoint_id, after.thread_id, after.checkpoint_ns]
    wheres = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    cx.execute("BEGIN")
    try:
        rows = cx.execute(
            f"SELECT {_COLUMNS} FROM checkpoints {wheres}"
            " ORDER BY checkpoint_id DESC, thread_id DESC, checkpoint_ns DESC LIMIT ?",
            (*values, limit),
        ).fetchall()
        return [_complete(cx, row) for row in rows]
    finally:
        cx.execute("COMMIT")


def _complete(
    cx: sqlite3.Connection, row: tuple[str, str, str, str | None, str, bytes, bytes | None]
) -> StoredCheckpoint:
    key = CheckpointKey(*row[:3])
    writes = cx.execute(
        f"SELECT {WRITE} FROM writes WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?", key
    )
    return StoredCheckpoint(key, *row[3:], [Write(*write) for write in writes])


_TRACES = f"""
SELECT 'posed', task_id, type, value FROM coordinator_undo_writes
WHERE thread_id = ?1 AND run_id = ?2 AND channel = '{INTERRUPT}'
UNION ALL
SELECT DISTINCT 'wrote', w.task_id, NULL, NULL
FROM coordinator_touched t JOIN writes w USING (thread_id, checkpoint_ns, checkpoint_id)
WHERE t.thread_id = ?1 AND t.run_id = ?2 AND w.task_id <> '{NULL_TASK}' AND NOT EXISTS (
    SELECT 1 FROM coordinator_undo_writes u
    WHERE u.thread_id = t.thread_id AND u.run_id = t.run_id AND u.checkpoint_ns = t.checkpoint_ns
    AND u.checkpoint_id = t.checkpoint_id AND u.task_id = w.task_id AND u.idx = w.idx
    AND u.value IS w.value
)
UNION ALL
SELECT DISTINCT 'within', checkpoint_ns, NULL, NULL FROM coordinator_touched
WHERE thread_id = ?1 AND run_id = ?2 AND checkpoint_ns <> ''
"""


def traces(cx: sqlite3.Connection, thread_id: str, run_id: str) -> list[Row]:
    return cx.execute(_TRACES, (thread_id, run_id)).fetchall()
