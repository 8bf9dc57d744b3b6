"""Rows of threads and of their checkpoints."""

from __future__ import annotations

from stores.checkpoints import CheckpointRow
from stores.rows import ThreadRow
from stores.sql.codec import loads
from stores.sql.columns import Columns
from stores.states import RunStatus

THREAD_TEXTS = (4, 5, 6)
"""Metadata, values, interrupts."""


def thread_row(columns: Columns) -> ThreadRow:
    """Map thread_id, user_id, assistant_id, fence, metadata, values, interrupts, created_at, updated_at,
    state_updated_at, ttl_ms, temporary, the derived status, and the error of the run that determines it."""
    status: str = columns[12]
    return ThreadRow(
        thread_id=columns[0],
        user_id=columns[1],
        assistant_id=columns[2],
        status=status,
        fence=columns[3],
        metadata=loads(columns[4]),
        values=loads(columns[5]),
        interrupts=loads(columns[6]),
        created_at=columns[7],
        updated_at=columns[8],
        state_updated_at=columns[9],
        error=columns[13] if status == "error" else None,
        ttl_ms=columns[10],
        temporary=bool(columns[11]),
    )


BASE_REMOVED = '{"base":"removed"}'
"""In `rollback_ref` of the settled run whose state is the only one that its thread has kept."""


def checkpoint_row(columns: Columns) -> CheckpointRow:
    """Map run_id, kind, assistant_id, status, paused, settled, interrupts, metadata, kwargs, fence, values,
    the run before, the moment, whether the thread holds these values, and whether the state was removed with
    which the run began. Raises ValueError."""
    return CheckpointRow(
        run_id=columns[0],
        kind=columns[1],
        assistant_id=columns[2],
        status=RunStatus.stored(columns[3]),
        paused=bool(columns[4]),
        settled=bool(columns[5]),
        interrupts=loads(columns[6]),
        metadata=loads(columns[7]),
        kwargs=loads(columns[8]),
        fence=columns[9],
        values=loads(columns[10]),
        previous=columns[11],
        written_at=columns[12],
        current=bool(columns[13]),
        base_removed=bool(columns[14]),
    )
