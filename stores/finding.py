"""The search port for operators: runs by filters, newest first; runs that may still be cancelled; ids by
prefix.

Each call is one read. `user_id=None` is system scope. Operations (`kind="op"`) are never returned.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from stores.json_values import JsonObject
from stores.rows import RunRow

IdKind = Literal["run", "thread", "cron", "webhook"]
"""A webhook has the id of its run, which may have been removed."""


class ListPosition(NamedTuple):
    """Where a list of runs continues: after the run with this time of creation (µs since 1970) and id."""

    created_us: int
    run_id: str


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Filters of runs. A filter that is not given matches all.

    `statuses`: values of `RunRow.status`. `metadata`: containment, as in `ThreadQuery`. Times are µs since
    1970: `created_from` is inclusive, `created_before` exclusive; with either, runs without a valid time of
    creation do not match. `silent_since`: the run holds its thread, and neither its row nor the thread's
    state was written since. Events do not count, because they may be stored elsewhere.
    """

    thread_id: str | None = None
    statuses: tuple[str, ...] = ()
    assistant_id: str | None = None
    metadata: JsonObject = field(default_factory=JsonObject)
    created_from: int | None = None
    created_before: int | None = None
    silent_since: int | None = None
    in_flight: bool = False


@runtime_checkable
class FindingStore(Protocol):
    async def find_runs(
        self, query: RunQuery, *, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]:
        """Newest first; runs of the same time by run id. `behind`: continues a list, without runs that have
        no valid time of creation."""
        ...

    async def open_run_ids(self, query: RunQuery, *, user_id: str | None, limit: int) -> list[str]:
        """Returns the runs of the query that are not decided (pending or running), ordered by run id."""
        ...

    async def ids_from(self, kind: IdKind, prefix: str, *, limit: int) -> list[str]:
        """Returns ids that begin with `prefix`, in order."""
        ...
