"""The catalogue: what clients make, list and remove. Rows of the store, the same from every worker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

from coordinator import arguments as check
from coordinator.facade.base import Facade
from coordinator.ids import new_run_id
from stores.catalogue import Direction, Heavy, NewThread, ThreadOrder, ThreadPatch, ThreadQuery
from stores.pages import Page
from stores.rows import RunRow, ThreadRow

InFlight = Literal["pending", "running", "all"]
THREAD_STATUSES = ("idle", "busy", "interrupted", "error")


class CatalogueFacade(Facade):
    async def create_thread(
        self,
        thread_id: str | None = None,
        *,
        metadata: dict[str, Any] | None = None,
        if_exists: Literal["raise", "do_nothing"] = "raise",
        ttl: float | None = None,
        temporary: bool = False,
        user_id: str | None = None,
    ) -> ThreadRow:
        """A thread without runs; an id is made where none is given (a UUID). `ttl`: s after its last use
        until it is removed with its runs. `temporary`: so for `keep_temporary` s, and not in listings.

        Raises ThreadExists where the id is taken, by whomever; `do_nothing` answers the thread as it is
        where it is this user's.
        """
        new = NewThread(
            thread_id=new_run_id() if thread_id is None else check.check_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
            metadata=check.check_metadata(metadata),
            ttl_ms=self._parts.temporary_ms if temporary else check.check_ttl("ttl", ttl),
            temporary=check.check_flag("temporary", temporary),
            existing_ok=check.check_choice("if_exists", if_exists, ("raise", "do_nothing")) == "do_nothing",
        )
        if new.ttl_ms is not None:
            self._parts.expiry.begin()
        return await self._parts.catalogue.create(new)

    async def patch_thread(
        self,
        thread_id: str,
        *,
        metadata: dict[str, Any] | None = None,
        ttl: check.TimeToLive = "unchanged",
        user_id: str | None = None,
    ) -> ThreadRow:
        """Merge `metadata` key by key, set its time to live (s; None = for ever). Also while the thread is
        busy. Raises ThreadNotFound."""
        patch = ThreadPatch(
            metadata=check.check_metadata(metadata),
            ttl_ms=None if ttl == "unchanged" else check.check_ttl("ttl", ttl),
            sets_ttl=ttl != "unchanged",
        )
        if patch.ttl_ms is not None:
            self._parts.expiry.begin()
        return await self._parts.catalogue.patch(
            check.check_id("thread_id", thread_id), patch, check.check_optional_id("user_id", user_id)
        )

    async def threads(
        self, query: ThreadQuery | None = None, *, user_id: str | None = None
    ) -> Page[ThreadRow]:
        """A page of threads, by default the ten that changed last. Raises SearchTooLong after
        `search_timeout`, as all that search or count threads or crons."""
        return await self._parts.catalogue.threads(
            _checked(query), check.check_optional_id("user_id", user_id)
        )

    async def count_threads(self, query: ThreadQuery | None = None, *, user_id: str | None = None) -> int:
        """How many threads the query finds, on all pages."""
        return await self._parts.catalogue.count(_checked(query), check.check_optional_id("user_id", user_id))

    async def run(self, run_id: str, *, thread_id: str | None = None, user_id: str | None = None) -> RunRow:
        """The run's row, on that thread if one is named. Raises RunNotFound, also for one rolled back."""
        return await self._parts.catalogue.run(
            check.check_id("run_id", run_id),
            check.check_optional_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
        )

    async def thread_of_key(self, idempotency_key: str, *, user_id: str | None = None) -> str | None:
        """Where the run is that this user has admitted under the key: on that thread the same request answers
        it again. None = the key is free."""
        return await self._parts.catalogue.thread_of_key(
            check.check_id("idempotency_key", idempotency_key), check.check_optional_id("user_id", user_id)
        )

    async def thread_runs(
        self,
        thread_id: str,
        *,
        statuses: Sequence[str] = (),
        limit: int = 10,
        offset: int = 0,
        user_id: str | None = None,
        without: Collection[Heavy] = (),
        max_bytes: int | None = None,
    ) -> Page[RunRow]:
        """Newest first, without those that were rolled back. `statuses` as `RunRow.shown_status` has them;
        none = all. `without`: fields that are left empty, and unread. The page is `cut` where its JSON would
        have more than `max_bytes`. Raises ThreadNotFound."""
        return await self._parts.catalogue.thread_runs(
            check.check_id("thread_id", thread_id),
            check.check_statuses(statuses),
            check.check_limit("limit", limit),
            check.check_limit("offset", offset),
            check.check_optional_id("user_id", user_id),
            without=frozenset(without),
            max_bytes=max_bytes,
        )

    async def inflight_runs(
        self,
        status: InFlight = "all",
        *,
        thread_id: str | None = None,
        after: str | None = None,
        limit: int = 1000,
        user_id: str | None = None,
    ) -> list[RunRow]:
        """What has not settled, with that shown status, by run id. The next page is `after` the last one's
        id: what is cancelled in between stays in the list until its task has stopped."""
        wanted = check.check_choice("status", status, get_args(InFlight))
        return await self._parts.catalogue.inflight(
            () if wanted == "all" else (wanted,),
            check.check_optional_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
            check.check_optional_id("after", after) or "",
            check.check_limit("limit", limit),
        )

    async def delete_run(
        self, run_id: str, *, thread_id: str | None = None, user_id: str | None = None
    ) -> None:
        """Remove a settled run with its audit and events. Raises RunNotFound; ConflictError while it is in
        flight."""
        await self._parts.catalogue.delete_run(
            check.check_id("run_id", run_id),
            check.check_optional_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
        )


def _checked(query: ThreadQuery | None) -> ThreadQuery:
    given = query or ThreadQuery()
    if given.status is not None:
        check.check_choice("status", given.status, THREAD_STATUSES)
    check.check_choice("sort_by", given.sort_by, get_args(ThreadOrder))
    check.check_choice("sort_order", given.sort_order, get_args(Direction))
    check.check_metadata(given.metadata)
    check.check_metadata(given.values, "values")
    check.check_limit("limit", given.limit)
    check.check_limit("offset", given.offset)
    for thread_id in given.ids or ():
        check.check_id("ids", thread_id)
    return given
