"""`manager.projections`: tables of the caller's own that follow the rows of runs."""

from __future__ import annotations

from coordinator import arguments as check
from coordinator.errors import InvalidArgument
from coordinator.workers.projections import Projection, Projector
from stores.event_loop import HomeLoop
from stores.projections import ProjectionRow, ProjectionStore


class Projections:
    """Raises InvalidArgument if the store keeps no changes."""

    def __init__(self, projector: Projector, *, home: HomeLoop) -> None:
        self._projector, self._home = projector, home

    def _check_kept(self) -> ProjectionStore:
        self._home.check()
        if (store := self._projector.store) is None:
            raise InvalidArgument("projections", "the store keeps no changes of runs")
        return store

    def add(self, projection: Projection) -> None:
        """Deliver changes of runs to this projection, before the manager opens. A projection that is new to
        the store first gets every run that exists. Raises InvalidArgument."""
        given = check.check_instance("projection", projection, Projection)
        check.check_id("projection", given.name)
        if check.check_seconds("timeout", given.timeout) == 0:
            raise InvalidArgument("timeout", "must be greater than 0")
        self._check_kept()
        late = self._projector.begun
        if late or not self._projector.add(given):
            why = "the manager is open" if late else f"{given.name!r} is added already"
            raise InvalidArgument("projection", why)

    async def search(self) -> list[ProjectionRow]:
        """Every projection of the store, of all workers, with the size of its queue."""
        return await self._check_kept().projections()

    async def remove(self, name: str) -> bool:
        """Remove a projection that no worker has any more, with its queue: until then, changes are queued for
        it. Returns False if it is unknown."""
        return await self._check_kept().remove_projection(check.check_id("name", name))
