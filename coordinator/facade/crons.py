"""Crons: for clients who keep them, and for who fires what is due."""

from __future__ import annotations

from dataclasses import replace

from coordinator import arguments as check
from coordinator.errors import CronNotFound, InvalidArgument
from coordinator.facade.base import Facade
from stores.crons import CronQuery, CronRow, CronStore, DueCrons, Firing
from stores.pages import Page

_PAGE = 100


class CronsFacade(Facade):
    @property
    def _crons(self) -> CronStore:
        if not isinstance(self._store, CronStore):
            raise InvalidArgument("cron", f"{self._store.url} keeps none")
        return self._store

    async def create_cron(
        self, cron: CronRow, *, thread_must_exist: bool = True, limit: int | None = None
    ) -> CronRow:
        """`limit`: how many its user may have, this one included; None = any number.

        Raises ThreadNotFound where its thread is somebody else's, or must be there and is not; TooManyCrons.
        """
        check.check_id("cron_id", cron.cron_id)
        return await self._crons.create_cron(
            cron, thread_must_exist=check.check_flag("thread_must_exist", thread_must_exist), limit=limit
        )

    async def cron(self, cron_id: str, *, user_id: str | None = None) -> CronRow:
        """Raises CronNotFound."""
        found = await self._crons.cron(
            check.check_id("cron_id", cron_id), user_id=check.check_optional_id("user_id", user_id)
        )
        if found is None:
            raise CronNotFound(cron_id)
        return found

    async def replace_cron(self, cron: CronRow, *, user_id: str | None = None) -> CronRow | None:
        """Compare-and-set on what was read: None = it was fired, changed or deleted meanwhile."""
        return await self._crons.replace_cron(cron, user_id=check.check_optional_id("user_id", user_id))

    async def delete_cron(self, cron_id: str, *, user_id: str | None = None) -> None:
        """Its runs stay. Raises CronNotFound."""
        if not await self._crons.delete_cron(
            check.check_id("cron_id", cron_id), user_id=check.check_optional_id("user_id", user_id)
        ):
            raise CronNotFound(cron_id)

    async def disable_crons(self, *, user_id: str) -> list[str]:
        """All of a user's that are enabled, one after the other; runs that they have begun go on. Returns
        which. A PATCH with `enabled` starts one again."""
        disabled: list[str] = []
        wanted, owner = CronQuery(enabled=True, limit=_PAGE), check.check_id("user_id", user_id)
        while found := await self._crons.crons(wanted, user_id=owner):
            for cron in found:  # one that fires at this moment is found again
                stopped = replace(cron, enabled=False, next_at=None)
                if await self._crons.replace_cron(stopped, user_id=owner) is not None:
                    disabled.append(cron.cron_id)
        return disabled

    async def delete_crons(self, *, user_id: str) -> list[str]:
        """All of a user's, one after the other; runs that they have begun go on. Returns which."""
        deleted: list[str] = []
        owner = check.check_id("user_id", user_id)
        while found := await self._crons.crons(CronQuery(limit=_PAGE), user_id=owner):
            deleted += [
                cron.cron_id for cron in found if await self._crons.delete_cron(cron.cron_id, user_id=owner)
            ]
        return deleted

    async def crons(self, query: CronQuery | None = None, *, user_id: str | None = None) -> Page[CronRow]:
        """A page of crons, by default the ten that were made last."""
        return await self._crons.crons(
            query or CronQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def count_crons(self, query: CronQuery | None = None, *, user_id: str | None = None) -> int:
        """How many crons the query finds, on all pages."""
        return await self._crons.count_crons(
            query or CronQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def next_cron(self) -> float | None:
        """Seconds until one is due whose assistant is known here; None = none will be, or is kept at all."""
        if not isinstance(self._store, CronStore):
            return None
        return await self._store.next_cron(self._parts.assistants.names)

    async def due_crons(self, *, limit: int) -> DueCrons:
        """Those that are due and whose assistants are known here, the longest first."""
        return await self._crons.due_crons(
            self._parts.assistants.names, limit=check.check_limit("limit", limit)
        )

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        """The moment becomes no run; False where it is over already."""
        return await self._crons.skip_cron(firing, error=check.check_text("error", error))
