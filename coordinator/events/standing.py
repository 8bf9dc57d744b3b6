"""How a run ended, as its row says: what no log is asked for."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.record import RunRecord
from coordinator.runs.queries import Queries, is_settled
from coordinator.schemas import Cause, RunStatus
from stores.rows import RunRow
from stores.states import OPEN


class Settled(NamedTuple):
    """`at`: seconds since 1970 by the store's clock, 0 = long ago."""

    status: RunStatus
    error: str | None
    cause: Cause | None
    started: bool
    at: float


class Standing:
    """Where a run stands."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def __call__(self, run_id: str, user_id: str | None) -> tuple[str, Settled | None]:
        """Its thread, and how it ended if it has settled. Raises RunNotFound, StoreUnavailable."""
        found = await self._queries.row_or_record(run_id, user_id)
        return found.thread_id, _settled(found) if isinstance(found, RunRow) else _ended(found)


def _settled(row: RunRow) -> Settled | None:
    if not is_settled(row):
        return None
    at = (row.settled_at or row.ended_at or 0) / 1e6
    return Settled(row.status, row.error, row.cancel_cause, row.started_at is not None, at)


def _ended(record: RunRecord) -> Settled | None:
    """A record store knows of no settling, nor when a run began."""
    if record.status in OPEN:
        return None
    return Settled(record.status, record.error, None, started=True, at=0)
