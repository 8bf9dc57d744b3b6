"""Views of runs: records, rows, events, and who decided what."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from coordinator import arguments as check
from coordinator.event_log import Event, Gap
from coordinator.events.follower import Follower
from coordinator.facade.base import Facade
from coordinator.record import RunRecord
from coordinator.runs.queries import Explanation
from coordinator.schemas import Receipt
from stores.rows import RunRow


class ViewsFacade(Facade):
    def follow(
        self,
        run_id: str,
        *,
        after: str | None = None,
        modes: Collection[str] | None = None,
        user_id: str | None = None,
    ) -> Follower:
        """Iterate over what a run emits, wherever it runs: from the beginning, after the id of an event, or
        (`"$"`) only from now on; first what its log has, then live. Ends with exactly one `End`, once the
        run has settled, also if its log is gone or its owner dead; what is missing is told as a `Gap`.

        `modes` leaves others out (`updates` includes `updates|<subgraph>`). `async with` ends the
        subscription with the block. Raises InvalidArgument; RunNotFound while iterating.
        """
        return self._parts.readers.follow(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_modes("modes", modes),
            check.check_optional_id("user_id", user_id),
        )

    async def events(
        self, run_id: str, *, after: str | None = None, limit: int = 1000, user_id: str | None = None
    ) -> list[Event | Gap]:
        """What the run's log has now, without waiting; at most `limit` events. Raises RunNotFound."""
        return await self._parts.readers.read(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_limit("limit", limit),
            check.check_optional_id("user_id", user_id),
        )

    async def get(
        self, run_id: str, *, user_id: str | None = None, raise_on_store_error: bool = False
    ) -> RunRecord | None:
        """Own memory first, else the store. `raise_on_store_error` tells "missing" from "store down"."""
        return await self._parts.queries.get(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            raise_on_store_error=check.check_flag("raise_on_store_error", raise_on_store_error),
        )

    async def aget(self, run_id: str, *, user_id: str | None = None) -> RunRecord | None:
        """Alias of `get`."""
        return await self.get(run_id, user_id=user_id)

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Newest first, memory and store merged by run id. Store failure: memory alone."""
        return await self._parts.queries.list_by_thread(
            check.check_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
            check.check_limit("limit", limit),
        )

    async def has_inflight(self, thread_id: str) -> bool:
        """Anything in flight on the thread, on any worker."""
        return await self._parts.queries.has_inflight(check.check_id("thread_id", thread_id))

    async def explain(self, run_id: str, *, user_id: str | None = None) -> Explanation:
        """Who decided what, when and why. Raises RunNotFound."""
        return await self._parts.queries.explain(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def receipt(self, run_id: str, *, user_id: str | None = None) -> Receipt:
        """The four times of a cancel. Raises RunNotFound."""
        return await self._parts.queries.receipt(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def runs(
        self,
        *,
        thread_id: str | None = None,
        statuses: Sequence[str] = (),
        in_flight: bool = False,
        limit: int = 100,
    ) -> list[RunRow]:
        """Rows of the store, newest first. System scope: for operators."""
        wanted = check.check_statuses(statuses)
        thread = check.check_optional_id("thread_id", thread_id)
        bound = check.check_limit("limit", limit)
        flag = check.check_flag("in_flight", in_flight)
        return await self._store.runs(thread_id=thread, statuses=wanted, in_flight=flag, limit=bound)
