"""`manager.crons`: crons, their management, and the firing of those that are due."""

from __future__ import annotations

from dataclasses import replace

from coordinator import arguments as check
from coordinator.assistants.registry import Assistants
from coordinator.errors import CronNotFound, InvalidArgument
from stores.base import CoordinationStore
from stores.crons import CronQuery, CronRow, CronStore, DueCrons, Firing
from stores.event_loop import HomeLoop
from stores.pages import Page

_PAGE = 100


class Crons:
    """Raises InvalidArgument if the store keeps no crons.

    `user_id` restricts a call to that user's crons: another user's cron is unknown.
    """

    def __init__(self, store: CoordinationStore, *, home: HomeLoop, assistants: Assistants) -> None:
        self._store, self._home, self._assistants = store, home, assistants
        self._keeping = store if isinstance(store, CronStore) else None

    @property
    def kept(self) -> bool:
        """Whether the store keeps crons."""
        return self._keeping is not None

    @property
    def _kept(self) -> CronStore:
        self._home.check()
        if self._keeping is None:
            raise InvalidArgument("cron", f"{self._store.url} keeps none")
        return self._keeping

    # -- for clients

    async def create(
        self, cron: CronRow, *, thread_must_exist: bool = True, limit: int | None = None
    ) -> CronRow:
        """Create a cron. `limit`: the number of crons that its user may have, including this one; None = any.

        Raises ThreadNotFound if its thread is another user's, or does not exist and must; TooManyCrons.
        """
        store = self._kept
        check.check_id("cron_id", cron.cron_id)
        return await store.create_cron(
            cron, thread_must_exist=check.check_flag("thread_must_exist", thread_must_exist), limit=limit
        )

    async def get(self, cron_id: str, *, user_id: str | None = None) -> CronRow:
        """Raises CronNotFound."""
        cron = await self._kept.cron(
            check.check_id("cron_id", cron_id), user_id=check.check_optional_id("user_id", user_id)
        )
        if cron is None:
            raise CronNotFound(cron_id)
        return cron

    async def search(self, query: CronQuery | None = None, *, user_id: str | None = None) -> Page[CronRow]:
        """A page of crons; default: the ten that were created last. Raises SearchTooLong."""
        return await self._kept.crons(
            query or CronQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def count(self, query: CronQuery | None = None, *, user_id: str | None = None) -> int:
        """The number of crons that match, on all pages. Raises SearchTooLong."""
        return await self._kept.count_crons(
            query or CronQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def replace(self, cron: CronRow, *, user_id: str | None = None) -> CronRow | None:
        """Compare-and-set on the row that was read. None = the cron was fired, changed or deleted since."""
        return await self._kept.replace_cron(cron, user_id=check.check_optional_id("user_id", user_id))

    async def delete(self, cron_id: str, *, user_id: str | None = None) -> None:
        """Delete the cron; its runs stay. Raises CronNotFound."""
        if not await self._kept.delete_cron(
            check.check_id("cron_id", cron_id), user_id=check.check_optional_id("user_id", user_id)
        ):
            raise CronNotFound(cron_id)

    async def disable_all(self, *, user_id: str) -> list[str]:
        """Disable all enabled crons of the user, one after the other; their runs in flight continue.
        Returns their ids. `replace` with `enabled` and a `next_at` enables one again."""
        store, owner = self._kept, check.check_id("user_id", user_id)
        disabled: list[str] = []
        enabled = CronQuery(enabled=True, limit=_PAGE)
        while page := await store.crons(enabled, user_id=owner):
            for cron in page:  # a cron that fires at this moment is on the next page again
                stopped = replace(cron, enabled=False, next_at=None)
                if await store.replace_cron(stopped, user_id=owner) is not None:
                    disabled.append(cron.cron_id)
        return disabled

    async def delete_all(self, *, user_id: str) -> list[str]:
        """Delete all crons of the user, one after the other; their runs in flight continue. Returns their
        ids."""
        store, owner = self._kept, check.check_id("user_id", user_id)
        deleted: list[str] = []
        while page := await store.crons(CronQuery(limit=_PAGE), user_id=owner):
            deleted += [cron.cron_id for cron in page if await store.delete_cron(cron.cron_id, user_id=owner)]
        return deleted

    # -- for the worker that fires them

    async def next_due(self) -> float | None:
        """Seconds until a cron whose assistant is registered on this worker is due, at least 0. None if none
        will be, or if the store keeps no crons."""
        return await self._kept.next_cron(self._assistants.names) if self.kept else None

    async def due(self, *, limit: int) -> DueCrons:
        """Crons that are due and whose assistants are registered on this worker, most overdue first."""
        return await self._kept.due_crons(self._assistants.names, limit=check.check_limit("limit", limit))

    async def skip(self, firing: Firing, *, error: str | None) -> bool:
        """Skip a firing, for the reason `error`: it gets no run. Returns False if it was fired or skipped
        before."""
        return await self._kept.skip_cron(firing, error=check.check_text("error", error))
