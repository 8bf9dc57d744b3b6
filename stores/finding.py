"""The port that finds runs for operators: by filters, newest first; those that may still be cancelled; and
ids by how they begin.

Each call is one read. `user_id=None` is system scope. Operations (`kind="op"`) are never found.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from stores.rows import RunRow

IdKind = Literal["run", "thread", "cron", "webhook"]
"""A webhook has the id of its run, which may have been removed."""


class ListPosition(NamedTuple):
    """Where a list of runs goes on: behind the run that was created then (us) and has this id."""

    created_us: int
    run_id: str


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs. What is not given does not narrow.

    `statuses` are those of the decision (`RunRow.status`). `metadata` is contained, as in `ThreadQuery`.
    Times are microseconds since 1970: `created_from` inclusive, `created_before` exclusive; neither finds a
    run whose time of creation cannot be read. `silent_since`: holds its thread, and neither its row nor the
    thread's state was written since; events do not count, for the store does not have them.
    """

    thread_id: str | None = None
    statuses: tuple[str, ...] = ()
    assistant_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    created_from: int | None = None
    created_before: int | None = None
    silent_since: int | None = None
    in_flight: bool = False


@runtime_checkable
class FindingStore(Protocol):
    async def find_runs(
        self, query: RunQuery, *, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]:
        """Newest first; of one moment, by run id. `behind`: the rest of a list, without runs whose time of
        creation cannot be read."""
        ...

    async def open_run_ids(self, query: RunQuery, *, user_id: str | None, limit: int) -> list[str]:
        """The runs of the query that are not decided yet (pending or running), by run id."""
        ...

    async def ids_from(self, kind: IdKind, prefix: str, *, limit: int) -> list[str]:
        """Ids that begin with `prefix`, in order."""
        ...
