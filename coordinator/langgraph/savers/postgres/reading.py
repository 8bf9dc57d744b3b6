"""The reads of a database of checkpoints, each one statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from langgraph.checkpoint.serde.types import TASKS

from coordinator.langgraph.savers.postgres import jsonb
from coordinator.langgraph.savers.postgres.records import StoredCheckpoint
from coordinator.langgraph.savers.records import CheckpointKey, Position
from coordinator.langgraph.savers.traces import INTERRUPT, NULL_TASK, Row
from stores.sql.postgres.calls import Call, Query, Rows

# Of one type, so that they fit into one array.
_SELECT = f"""
SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text,
    c.metadata::text,
    (
        SELECT array_agg(ARRAY[convert_to(b.channel, 'UTF8'), convert_to(b.type, 'UTF8'), b.blob])
        FROM jsonb_each_text(c.checkpoint -> 'channel_versions') v
        JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
            AND b.channel = v.key AND b.version = v.value
    ),
    (
        SELECT array_agg(ARRAY[
            convert_to(w.task_id, 'UTF8'), convert_to(w.task_path, 'UTF8'), convert_to(w.idx::text, 'UTF8'),
            convert_to(w.channel, 'UTF8'), convert_to(w.type, 'UTF8'), w.blob
        ])
        FROM checkpoint_writes w WHERE w.thread_id = c.thread_id
            AND w.checkpoint_ns = c.checkpoint_ns AND w.checkpoint_id = c.checkpoint_id
    ),
    CASE WHEN (c.checkpoint ->> 'v')::int < 4 THEN (
        SELECT array_agg(
            ARRAY[convert_to(p.type, 'UTF8'), p.blob] ORDER BY p.task_path, p.task_id, p.idx
        )
        FROM checkpoint_writes p WHERE p.thread_id = c.thread_id
            AND p.checkpoint_ns = c.checkpoint_ns AND p.checkpoint_id = c.parent_checkpoint_id
            AND p.channel = '{TASKS}'
    ) END
FROM checkpoints c
"""
_ONE = Query(f"{_SELECT} WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 AND c.checkpoint_id = $3")
_NEWEST = Query(
    f"{_SELECT} WHERE c.thread_id = $1 AND c.checkpoint_ns = $2 ORDER BY c.checkpoint_id DESC LIMIT 1"
)


def checkpoint(position: Position) -> Call[StoredCheckpoint | None]:
    args: tuple[object, ...] = (position.thread_id, position.namespace)
    if position.checkpoint_id is None:
        return Call(_NEWEST, args, _first)
    return Call(_ONE, (*args, position.checkpoint_id), _first)


class Filter(NamedTuple):
    """Conditions of a list, and their values."""

    conditions: tuple[str, ...]
    values: tuple[object, ...]


def filter_of(position: Position | None, metadata: Mapping[str, object], before_id: str | None) -> Filter:
    terms: list[tuple[str, object]] = []
    if position is not None:
        terms.append(("c.thread_id =", position.thread_id))
        if position.checkpoint_ns is not None:
            terms.append(("c.checkpoint_ns =", position.checkpoint_ns))
        if position.checkpoint_id is not None:
            terms.append(("c.checkpoint_id =", position.checkpoint_id))
    if metadata:
        terms.append(("c.metadata @>", jsonb.dumps(dict(metadata))))
    if before_id is not None:
        terms.append(("c.checkpoint_id <", before_id))
    return Filter(
        tuple(f"{term} ${at}" for at, (term, _) in enumerate(terms, 1)), tuple(value for _, value in terms)
    )


def page(where: Filter, after: CheckpointKey | None, limit: int) -> Call[list[StoredCheckpoint]]:
    """At most `limit` checkpoints, newest first, that follow `after` in the list."""
    conditions, values = list(where.conditions), list(where.values)
    if after is not None:
        places = ", ".join(f"${len(values) + at}" for at in (1, 2, 3))
        conditions.append(f"(c.checkpoint_id, c.thread_id, c.checkpoint_ns) < ({places})")
        values += [after.checkpoint_id, after.thread_id, after.checkpoint_ns]
    wheres = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "ORDER BY c.checkpoint_id DESC, c.thread_id DESC, c.checkpoint_ns DESC"
    return Call(Query(f"{_SELECT} {wheres} {order} LIMIT {limit:d}"), tuple(values), _all)


def _all(rows: Rows) -> list[StoredCheckpoint]:
    return [StoredCheckpoint(CheckpointKey(*row[:3]), *row[3:]) for row in rows]


def _first(rows: Rows) -> StoredCheckpoint | None:
    return _all(rows)[0] if rows else None


_TRACES = Query(f"""
SELECT 'posed', task_id, type, blob FROM coordinator_undo_writes
WHERE thread_id = $1 AND run_id = $2 AND channel = '{INTERRUPT}'
UNION ALL
SELECT DISTINCT 'wrote', w.task_id, NULL::text, NULL::bytea
FROM coordinator_touched t JOIN checkpoint_writes w USING (thread_id, checkpoint_ns, checkpoint_id)
WHERE t.thread_id = $1 AND t.run_id = $2 AND w.task_id <> '{NULL_TASK}' AND NOT EXISTS (
    SELECT 1 FROM coordinator_undo_writes u
    WHERE u.thread_id = t.thread_id AND u.run_id = t.run_id AND u.checkpoint_ns = t.checkpoint_ns
    AND u.checkpoint_id = t.checkpoint_id AND u.task_id = w.task_id AND u.idx = w.idx
    AND u.blob IS NOT DISTINCT FROM w.blob
)
UNION ALL
SELECT DISTINCT 'within', checkpoint_ns, NULL::text, NULL::bytea FROM coordinator_touched
WHERE thread_id = $1 AND run_id = $2 AND checkpoint_ns <> ''
""")


def traces(thread_id: str, run_id: str) -> Call[list[Row]]:
    return Call(_TRACES, (thread_id, run_id), lambda rows: [(row[0], row[1], row[2], row[3]) for row in rows])
