"""The outcome of a run, read from its row and not from its log."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.event_log import EventId
from coordinator.record import RunRecord
from coordinator.runs.queries import Queries, is_settled
from coordinator.schemas import Cause, RunStatus
from stores.rows import RunRow
from stores.states import OPEN


class Settled(NamedTuple):
    """The outcome of a settled run. `at`: seconds since 1970 on the store's clock; 0 = unknown, long ago.
    `fence`: of the last attempt of a run that had several, whose log ends with that fence; else 0. `log_end`:
    the last entry of its log, with number 0 if the run emitted nothing; None = unknown."""

    status: RunStatus
    error: str | None
    cause: Cause | None
    started: bool
    at: float
    fence: int = 0
    log_end: EventId | None = None


class Standing(NamedTuple):
    """The status in the row of a run. `settled`: its outcome, if it has settled."""

    thread_id: str
    user_id: str | None
    settled: Settled | None


class Standings:
    """Reads whether a run has settled, and how."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def __call__(self, run_id: str, user_id: str | None = None) -> Standing:
        """Raises RunNotFound, StoreUnavailable."""
        run = await self._queries.row_or_record(run_id, user_id)
        settled = _settled(run) if isinstance(run, RunRow) else _ended(run)
        return Standing(run.thread_id, run.user_id, settled)


def _settled(row: RunRow) -> Settled | None:
    if not is_settled(row):
        return None
    at = (row.settled_at or row.ended_at or 0) / 1e6
    fence = row.fence if row.attempt > 1 else 0
    log_end = None if row.log_end is None else EventId(row.fence, row.log_end)
    return Settled(row.status, row.error, row.cancel_cause, row.started_at is not None, at, fence, log_end)


def _ended(record: RunRecord) -> Settled | None:
    """Returns the outcome of a record, which has no times of start and settlement."""
    if record.status in OPEN:
        return None
    return Settled(record.status, record.error, None, started=True, at=0)
