"""The writes of a database of checkpoints. Each call is one statement, so that it is one transaction, and may
be repeated when its answer was lost.

A statement locks the fence of its thread before it writes. An advance of the fence waits for statements that
have it, and those that come later are refused. What must see all writes of lower fences (the head, undo)
is a statement of its own after the advance: the snapshot of an earlier one would be older than the lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.errors import StaleFence
from coordinator.langgraph.savers.fences import Writer
from coordinator.langgraph.savers.postgres.records import Blob, CheckpointRow
from coordinator.langgraph.savers.postgres.schema import UNDO
from coordinator.langgraph.savers.records import CheckpointKey, Write
from coordinator.langgraph.savers.storage import PURGED_AT_ONCE, TOMBSTONES_KEPT, Head
from stores.sql.postgres.calls import Call, Query, Rows, nothing

OPEN = """allowed AS (
    SELECT FROM coordinator_fences WHERE thread_id = $1 AND fence = $2 AND NOT sealed FOR SHARE
)"""
_TOUCHED = """touched AS (
    INSERT INTO coordinator_touched (thread_id, run_id, checkpoint_ns, checkpoint_id, own)
    SELECT $1, $3, $4, $5, NOT EXISTS (
        SELECT FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = $4 AND checkpoint_id = $5
    ) FROM allowed
    ON CONFLICT DO NOTHING RETURNING true
), copied_writes AS (
    INSERT INTO coordinator_undo_writes (
        thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    )
    SELECT $1, $3, $4, $5, task_id, task_path, idx, channel, type, blob FROM checkpoint_writes, touched
    WHERE thread_id = $1 AND checkpoint_ns = $4 AND checkpoint_id = $5
)"""
"""The first write of a run to a checkpoint records it and copies the writes that are there."""

_PUT_CHECKPOINT = Query(f"""
WITH {OPEN}, {_TOUCHED}, copied AS (
    INSERT INTO coordinator_undo_checkpoints (
        thread_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    )
    SELECT $1, $3, $4, $5, parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints, allowed
    WHERE thread_id = $1 AND checkpoint_ns = $4 AND checkpoint_id = $5 AND NOT EXISTS (
        SELECT FROM coordinator_touched
        WHERE thread_id = $1 AND run_id = $3 AND checkpoint_ns = $4 AND checkpoint_id = $5 AND own
    )
    ON CONFLICT DO NOTHING
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, $4, b.* FROM unnest($9::text[], $10::text[], $11::text[], $12::bytea[]) b, allowed
    ON CONFLICT DO NOTHING RETURNING channel, version
), own_blobs AS (
    INSERT INTO coordinator_undo_blobs (thread_id, run_id, checkpoint_ns, channel, version, own)
    SELECT $1, $3, $4, channel, version, true FROM blobs ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO checkpoints (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    )
    SELECT $1, $4, $5, $6, $7::jsonb, $8::jsonb FROM allowed
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
)
SELECT FROM allowed
""")


def _put_writes(on_conflict: str) -> Query:
    return Query(f"""
WITH {OPEN}, {_TOUCHED}, written AS (
    INSERT INTO checkpoint_writes (
        thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    )
    SELECT $1, $4, $5, $6, $7, w.*
    FROM unnest($8::int[], $9::text[], $10::text[], $11::bytea[]) w, allowed
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) {on_conflict}
)
SELECT FROM allowed
""")


_REPLACE_WRITES = _put_writes(
    "DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob"
)
_KEEP_WRITES = _put_writes("DO NOTHING")


def put_checkpoint(writer: Writer, row: CheckpointRow, blobs: Sequence[Blob]) -> Call[None]:
    """The answer raises StaleFence."""
    columns = tuple([blob[at] for blob in blobs] for at in range(4))
    key, parent_id, checkpoint, metadata = row
    args = (*_guard(writer), *key[1:], parent_id, checkpoint, metadata, *columns)
    return fenced(_PUT_CHECKPOINT, args, writer.thread_id, writer.fence)


def put_writes(
    writer: Writer, key: CheckpointKey, writes: Sequence[Write], task: tuple[str, str], *, replace: bool
) -> Call[None]:
    """`task`: its id and its path. The answer raises StaleFence."""
    columns = tuple([write[at] for write in writes] for at in range(2, 6))
    statement = _REPLACE_WRITES if replace else _KEEP_WRITES
    return fenced(statement, (*_guard(writer), *key[1:], *task, *columns), writer.thread_id, writer.fence)


def _guard(writer: Writer) -> tuple[str, int, str]:
    return writer.thread_id, writer.fence, writer.run_id


def fenced(query: Query, args: tuple[object, ...], thread_id: str, fence: int) -> Call[None]:
    """A statement that returns a row if the fence permits it."""

    def answer(rows: Rows) -> None:
        if not rows:
            raise StaleFence(thread_id, fence)

    return Call(query, args, answer)


_REMOVE = Query(f"""
WITH {OPEN}, here AS (
    SELECT checkpoint_ns, checkpoint_id FROM checkpoints, allowed WHERE thread_id = $1
    UNION SELECT checkpoint_ns, checkpoint_id FROM checkpoint_writes, allowed WHERE thread_id = $1
), touched AS (
    INSERT INTO coordinator_touched (thread_id, run_id, checkpoint_ns, checkpoint_id, own)
    SELECT $1, $3, checkpoint_ns, checkpoint_id, NOT EXISTS (
        SELECT FROM checkpoints c WHERE thread_id = $1
        AND c.checkpoint_ns = here.checkpoint_ns AND c.checkpoint_id = here.checkpoint_id
    ) FROM here
    ON CONFLICT DO NOTHING RETURNING checkpoint_ns, checkpoint_id
), copied_writes AS (
    INSERT INTO coordinator_undo_writes (
        thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    )
    SELECT $1, $3, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    FROM checkpoint_writes JOIN touched USING (checkpoint_ns, checkpoint_id) WHERE thread_id = $1
), copied AS (
    INSERT INTO coordinator_undo_checkpoints (
        thread_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    )
    SELECT $1, $3, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    FROM checkpoints c, allowed WHERE thread_id = $1 AND NOT EXISTS (
        SELECT FROM coordinator_touched t WHERE thread_id = $1 AND run_id = $3
        AND t.checkpoint_ns = c.checkpoint_ns AND t.checkpoint_id = c.checkpoint_id AND own
    )
    ON CONFLICT DO NOTHING
), copied_blobs AS (
    INSERT INTO coordinator_undo_blobs (
        thread_id, run_id, checkpoint_ns, channel, version, own, type, blob
    )
    SELECT $1, $3, checkpoint_ns, channel, version, false, type, blob
    FROM checkpoint_blobs, allowed WHERE thread_id = $1
    ON CONFLICT DO NOTHING
), checkpoints_ AS (DELETE FROM checkpoints USING allowed WHERE thread_id = $1),
writes_ AS (DELETE FROM checkpoint_writes USING allowed WHERE thread_id = $1),
blobs_ AS (DELETE FROM checkpoint_blobs USING allowed WHERE thread_id = $1)
SELECT FROM allowed
""")


def remove_thread(writer: Writer) -> Call[None]:
    """Removes all checkpoints of the thread as a part of the run, which can be undone. The answer raises
    StaleFence."""
    return fenced(_REMOVE, _guard(writer), writer.thread_id, writer.fence)


_ADVANCE = Query("""
INSERT INTO coordinator_fences AS f (thread_id, fence, sealed) VALUES ($1, $2, $3)
ON CONFLICT (thread_id) DO UPDATE SET fence = $2, sealed = $3, removed_at = NULL
WHERE f.fence < $2 OR (f.fence = $2 AND (NOT f.sealed OR $3 OR f.removed_at IS NOT NULL))
RETURNING true
""")


def advance(thread_id: str, fence: int, *, sealed: bool = False) -> Call[None]:
    """From the answer on, lower fences are refused, and this one if it is `sealed`. The answer raises
    StaleFence if this one is lower than the newest, or was sealed."""
    return fenced(_ADVANCE, (thread_id, fence, sealed), thread_id, fence)


_BEGIN = Query(f"""
WITH RECURSIVE {OPEN}, {
    ", ".join(
        f"{table}_ AS (DELETE FROM {table} USING allowed WHERE thread_id = $1 AND run_id <> $3)"
        for table in UNDO
    )
}, namespaces (ns) AS (
    (SELECT checkpoint_ns FROM checkpoints WHERE thread_id = $1 ORDER BY checkpoint_ns LIMIT 1)
    UNION ALL
    SELECT (
        SELECT checkpoint_ns FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns > ns
        ORDER BY checkpoint_ns LIMIT 1
    ) FROM namespaces WHERE ns IS NOT NULL
)
SELECT checkpoint_id, metadata ->> 'run_id', (
    SELECT max(newest.checkpoint_id) FROM namespaces, LATERAL (
        SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ns
        ORDER BY checkpoint_id DESC LIMIT 1
    ) newest
) FROM allowed LEFT JOIN LATERAL (
    SELECT checkpoint_id, metadata FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''
    ORDER BY checkpoint_id DESC LIMIT 1
) head ON true
""")
"""One step in the index for each namespace: a thread has more checkpoints than namespaces."""


def begin(thread_id: str, run_id: str, fence: int) -> Call[Head]:
    """After `advance`. The answer raises StaleFence."""

    def answer(rows: Rows) -> Head:
        if not rows:
            raise StaleFence(thread_id, fence)
        return Head(*rows[0])

    return Call(_BEGIN, (thread_id, fence, run_id), answer)


_SEALED = """allowed AS (
    SELECT FROM coordinator_fences WHERE thread_id = $1 AND fence = $2 AND sealed FOR UPDATE
)"""
_UNDO = Query(f"""
WITH {_SEALED}, t AS (
    SELECT * FROM coordinator_touched, allowed WHERE thread_id = $1 AND run_id = $3
), u AS (
    SELECT * FROM coordinator_undo_writes, allowed WHERE thread_id = $1 AND run_id = $3
), b AS (
    SELECT * FROM coordinator_undo_blobs, allowed WHERE thread_id = $1 AND run_id = $3
), deleted_checkpoints AS (
    DELETE FROM checkpoints c USING t WHERE c.thread_id = $1
    AND c.checkpoint_ns = t.checkpoint_ns AND c.checkpoint_id = t.checkpoint_id AND t.own
), old_checkpoints AS (
    INSERT INTO checkpoints (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    )
    SELECT $1, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    FROM coordinator_undo_checkpoints, allowed WHERE thread_id = $1 AND run_id = $3
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
        parent_checkpoint_id = EXCLUDED.parent_checkpoint_id, type = EXCLUDED.type,
        checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
), deleted_writes AS (
    DELETE FROM checkpoint_writes w USING t WHERE w.thread_id = $1
    AND w.checkpoint_ns = t.checkpoint_ns AND w.checkpoint_id = t.checkpoint_id AND NOT EXISTS (
        SELECT FROM u WHERE u.checkpoint_ns = w.checkpoint_ns AND u.checkpoint_id = w.checkpoint_id
        AND u.task_id = w.task_id AND u.idx = w.idx
    )
), old_writes AS (
    INSERT INTO checkpoint_writes (
        thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    )
    SELECT $1, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob FROM u
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
        task_path = EXCLUDED.task_path, channel = EXCLUDED.channel, type = EXCLUDED.type,
        blob = EXCLUDED.blob
), deleted_blobs AS (
    DELETE FROM checkpoint_blobs c USING b WHERE c.thread_id = $1 AND c.checkpoint_ns = b.checkpoint_ns
    AND c.channel = b.channel AND c.version = b.version AND b.own
), old_blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $1, checkpoint_ns, channel, version, type, blob FROM b WHERE NOT own ON CONFLICT DO NOTHING
)
SELECT FROM allowed
""")
"""No key is both deleted and inserted, for the order within a statement is undefined."""


def undo(thread_id: str, run_id: str, fence: int) -> Call[None]:
    """After `advance` with `sealed`. The answer raises StaleFence."""
    return fenced(_UNDO, (thread_id, fence, run_id), thread_id, fence)


_FORGET = Query(
    f"WITH {', '.join(f'{table}_ AS (DELETE FROM {table} WHERE run_id = ANY($1))' for table in UNDO)} SELECT"
)


def forget(run_ids: Sequence[str]) -> Call[None]:
    return Call(_FORGET, (list(run_ids),), nothing)


def _copied(table: str, key: str, columns: str) -> str:
    """Makes the target's rows of a table equal to the source's ($1, $3)."""
    same = " AND ".join(f"s.{name} = t.{name}" for name in key.split(", "))
    updated = ", ".join(f"{name} = EXCLUDED.{name}" for name in columns.split(", "))
    return f"""surplus_{table} AS (
    DELETE FROM {table} t USING allowed WHERE t.thread_id = $1
    AND NOT EXISTS (SELECT FROM {table} s WHERE s.thread_id = $3 AND {same})
), copied_{table} AS (
    INSERT INTO {table} (thread_id, {key}, {columns})
    SELECT $1, {key}, {columns} FROM {table}, allowed WHERE thread_id = $3
    ON CONFLICT (thread_id, {key}) DO UPDATE SET {updated}
)"""


_COPY = Query(f"""
WITH {OPEN},
{_copied("checkpoints", "checkpoint_ns, checkpoint_id", "parent_checkpoint_id, type, checkpoint, metadata")},
{_copied("checkpoint_blobs", "checkpoint_ns, channel, version", "type, blob")},
{
    _copied(
        "checkpoint_writes",
        "checkpoint_ns, checkpoint_id, task_id, idx",
        "task_path, channel, type, blob",
    )
}
SELECT FROM allowed
""")


def copy(source: str, target: str, fence: int) -> Call[None]:
    """After `advance` of the target. The answer raises StaleFence."""
    return fenced(_COPY, (target, fence, source), target, fence)


_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", *UNDO)
_DELETE = Query(f"""
WITH {_SEALED}, {
    ", ".join(f"{table}_ AS (DELETE FROM {table} USING allowed WHERE thread_id = $1)" for table in _TABLES)
}, removed AS (
    UPDATE coordinator_fences SET removed_at = now() FROM allowed WHERE thread_id = $1
), purged AS (
    DELETE FROM coordinator_fences WHERE thread_id IN (
        SELECT thread_id FROM coordinator_fences WHERE removed_at < now() - make_interval(secs => $3)
        AND thread_id <> $1 ORDER BY removed_at LIMIT {PURGED_AT_ONCE} FOR UPDATE SKIP LOCKED
    )
)
SELECT FROM allowed
""")


def delete(thread_id: str, fence: int) -> Call[None]:
    """After `advance` with `sealed`. The answer raises StaleFence."""
    return fenced(_DELETE, (thread_id, fence, TOMBSTONES_KEPT), thread_id, fence)
