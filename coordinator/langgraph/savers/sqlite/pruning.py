"""Removes the former checkpoints of a thread, in one transaction."""

from __future__ import annotations

import sqlite3

from coordinator.langgraph.savers.sqlite.writing import advance
from coordinator.langgraph.savers.storage import DELTA_MARKS, with_delta_channel

_METADATA = "CAST(metadata AS TEXT)"
_HAS_DELTA = (
    "SELECT 1 FROM checkpoints WHERE thread_id = ? AND ("
    + " OR ".join(f"json_type({_METADATA}, '$.{mark}') IS NOT NULL" for mark in DELTA_MARKS)
    + ") LIMIT 1"
)
_NEWEST = (
    "SELECT checkpoint_ns, max(checkpoint_id) FROM checkpoints WHERE thread_id = ? GROUP BY checkpoint_ns"
)
_ENDED_CALL = f"""
SELECT 1 FROM checkpoints c WHERE thread_id = ?1 AND checkpoint_ns = ?2 AND checkpoint_id = ?3
AND json_extract({_METADATA}, '$.parents.""') IS NOT ?4 AND EXISTS (
    SELECT 1 FROM checkpoints r WHERE r.thread_id = ?1 AND r.checkpoint_ns = ''
    AND r.checkpoint_id = json_extract(CAST(c.metadata AS TEXT), '$.parents.""')
)
"""
"""The call began at a checkpoint of the root graph that is there, and is not its newest."""


def keep_latest(cx: sqlite3.Connection, thread_id: str, fence: int) -> None:
    """Raises StaleFence, InvalidArgument."""
    advance(cx, thread_id, fence)
    if cx.execute(_HAS_DELTA, (thread_id,)).fetchone() is not None:
        raise with_delta_channel(thread_id)
    newest: dict[str, str] = dict(cx.execute(_NEWEST, (thread_id,)).fetchall())
    root = newest.get("")
    ended = [
        ns
        for ns, head in newest.items()
        if ":" in ns and cx.execute(_ENDED_CALL, (thread_id, ns, head, root)).fetchone() is not None
    ]
    for ns, head in newest.items():
        kept = None if ns in ended else head
        for table in ("checkpoints", "writes"):
            cx.execute(
                f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id IS NOT ?",
                (thread_id, ns, kept),
            )
    cx.execute("UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = ?", (thread_id,))
