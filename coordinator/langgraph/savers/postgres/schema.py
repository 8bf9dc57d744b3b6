"""The tables of a database of checkpoints: those of LangGraph's own saver, unchanged, and the coordinator's
beside them, in the first schema of the role's search_path."""

from __future__ import annotations

from stores.sql.postgres import server
from stores.sql.postgres.calls import Connection

_OF_LANGGRAPH = (
    "CREATE TABLE IF NOT EXISTS checkpoint_migrations (v INTEGER PRIMARY KEY)",
    """CREATE TABLE IF NOT EXISTS checkpoints (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    type TEXT,
    checkpoint JSONB NOT NULL,
    metadata JSONB NOT NULL DEFAULT '{}',
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
)""",
    """CREATE TABLE IF NOT EXISTS checkpoint_blobs (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    channel TEXT NOT NULL,
    version TEXT NOT NULL,
    type TEXT NOT NULL,
    blob BYTEA,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, version)
)""",
    """CREATE TABLE IF NOT EXISTS checkpoint_writes (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    channel TEXT NOT NULL,
    type TEXT,
    blob BYTEA NOT NULL,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
)""",
    "ALTER TABLE checkpoint_blobs ALTER COLUMN blob DROP NOT NULL",
    "SELECT",
    "CREATE INDEX IF NOT EXISTS checkpoints_thread_id_idx ON checkpoints (thread_id)",
    "CREATE INDEX IF NOT EXISTS checkpoint_blobs_thread_id_idx ON checkpoint_blobs (thread_id)",
    "CREATE INDEX IF NOT EXISTS checkpoint_writes_thread_id_idx ON checkpoint_writes (thread_id)",
    "ALTER TABLE checkpoint_writes ADD COLUMN IF NOT EXISTS task_path TEXT NOT NULL DEFAULT ''",
)
"""LangGraph's migrations by their numbers. Not CONCURRENTLY as there, because they are one transaction."""

_KEY = "thread_id TEXT NOT NULL, run_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL"
_OF_COORDINATOR = (
    # The newest fence of each thread. sealed: its run was undone, and must not write again. removed_at: when
    # the thread was deleted.
    """CREATE TABLE IF NOT EXISTS coordinator_fences (
    thread_id TEXT PRIMARY KEY, fence BIGINT NOT NULL, sealed BOOLEAN NOT NULL, removed_at TIMESTAMPTZ
)""",
    """CREATE INDEX IF NOT EXISTS coordinator_fences_removed ON coordinator_fences (removed_at)
    WHERE removed_at IS NOT NULL""",
    # The checkpoints that a run has written, or written onto. own: absent before.
    f"""CREATE TABLE IF NOT EXISTS coordinator_touched (
    {_KEY}, checkpoint_id TEXT NOT NULL, own BOOLEAN NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
)""",
    # The rows as they were before.
    f"""CREATE TABLE IF NOT EXISTS coordinator_undo_checkpoints (
    {_KEY}, checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT, type TEXT, checkpoint JSONB NOT NULL, metadata JSONB NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
)""",
    f"""CREATE TABLE IF NOT EXISTS coordinator_undo_writes (
    {_KEY}, checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL, task_path TEXT NOT NULL, idx INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT,
    blob BYTEA NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx)
)""",
    # own: absent before.
    f"""CREATE TABLE IF NOT EXISTS coordinator_undo_blobs (
    {_KEY}, channel TEXT NOT NULL, version TEXT NOT NULL, own BOOLEAN NOT NULL, type TEXT, blob BYTEA,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, channel, version)
)""",
)
UNDO = (
    "coordinator_touched",
    "coordinator_undo_checkpoints",
    "coordinator_undo_writes",
    "coordinator_undo_blobs",
)
_LOCK = 0x6C616E6767726170
"""Of the processes that prepare a database."""


async def prepare(cx: Connection) -> None:
    """Creates what is missing, in one transaction; a database that has all tables is only read. Raises
    StoreRefused for an unsuitable server."""
    await server.check(cx)
    if await _is_complete(cx):
        return
    async with cx.transaction():
        await cx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await cx.execute(_OF_LANGGRAPH[0])
        applied = await _applied(cx)
        for number, statement in enumerate(_OF_LANGGRAPH):
            if number > applied:
                await cx.execute(statement)
                await cx.execute("INSERT INTO checkpoint_migrations (v) VALUES ($1)", number)
        for statement in _OF_COORDINATOR:
            await cx.execute(statement)
        for table in UNDO:
            await cx.execute(f"CREATE INDEX IF NOT EXISTS {table}_run ON {table} (run_id)")


async def _is_complete(cx: Connection) -> bool:
    tables = ("checkpoint_migrations", "coordinator_fences", *UNDO)
    missing = await cx.fetchval(
        "SELECT count(*) FROM unnest($1::text[]) AS t (name) WHERE to_regclass(name) IS NULL", tables
    )
    return missing == 0 and await _applied(cx) >= len(_OF_LANGGRAPH) - 1


async def _applied(cx: Connection) -> int:
    return int(await cx.fetchval("SELECT COALESCE(max(v), -1) FROM checkpoint_migrations"))
