"""Runs by filters: to list them, and to cancel many."""

from __future__ import annotations

from coordinator import arguments as check
from coordinator.facade.base import Facade
from stores.finding import ListPosition, RunQuery
from stores.rows import RunRow

MOST = 100_000
"""Ids that one call of `open_run_ids` answers by default."""


class FindingFacade(Facade):
    async def find_runs(
        self,
        query: RunQuery | None = None,
        *,
        behind: ListPosition | None = None,
        limit: int = 100,
        user_id: str | None = None,
    ) -> list[RunRow]:
        """Newest first. The next page is `behind` the last run of this one."""
        return await self._store.find_runs(
            _checked(query),
            user_id=check.check_optional_id("user_id", user_id),
            behind=behind,
            limit=check.check_limit("limit", limit),
        )

    async def open_run_ids(
        self, query: RunQuery | None = None, *, limit: int = MOST, user_id: str | None = None
    ) -> list[str]:
        """The runs that `cancel` would still change, in the order of their ids."""
        return await self._store.open_run_ids(
            _checked(query),
            user_id=check.check_optional_id("user_id", user_id),
            limit=check.check_limit("limit", limit),
        )


def _checked(query: RunQuery | None) -> RunQuery:
    given = query or RunQuery()
    check.check_optional_id("thread_id", given.thread_id)
    check.check_optional_id("assistant_id", given.assistant_id)
    check.check_statuses(given.statuses)
    check.check_metadata(given.metadata)
    return given
