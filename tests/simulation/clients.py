"""Calls of clients that create, list and remove threads and runs. Some threads expire."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from coordinator.schemas import CheckpointRef

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Clients:
    """`any_run()` returns the id of a run, if there is any; `user()` the calling user, None = the system."""

    def __init__(
        self,
        chance: Random,
        threads: list[str],
        any_run: Callable[[], str | None],
        user: Callable[[], str | None],
    ) -> None:
        self._chance, self._threads, self._any_run, self._user = chance, threads, any_run, user

    async def make(self, process: Process) -> None:
        """A thread that goes by itself, or one that is there already."""
        temporary = self._chance.random() < 0.3
        await process.manager.threads.create(
            self._chance.choice(self._threads),
            if_exists="do_nothing",
            ttl=None if temporary else self._chance.choice((None, 0.3, 2.0)),
            temporary=temporary,
            user_id=self._user(),
        )

    async def change(self, process: Process) -> None:
        """A time to live for a thread that has none, or the other way round."""
        ttl = self._chance.choice((None, 0.2, 0.5, 2.0))
        thread_id = self._chance.choice(self._threads)
        await process.manager.threads.update(thread_id, ttl=ttl, user_id=self._user())

    async def listing(self, process: Process) -> None:
        manager, user = process.manager, self._user()
        await manager.threads.search(user_id=user)
        await manager.threads.count(user_id=user)
        await manager.runs.in_flight(user_id=user)
        await manager.runs.search(user_id=user)
        await manager.runs.cancellable_ids(user_id=user)
        await manager.runs.thread_of_key("key", user_id=user)
        if (run_id := self._any_run()) is not None:
            await manager.runs.get(run_id, user_id=user)
        await manager.runs.of_thread(self._chance.choice(self._threads), user_id=user)
        await manager.runs.started(self._threads[0], user_id=user)
        thread_id = self._chance.choice(self._threads)
        await manager.threads.state(thread_id, user_id=user)
        await manager.threads.state(thread_id, CheckpointRef("unknown"), user_id=user)
        async for view in manager.threads.history(thread_id, user_id=user):
            await manager.threads.state(thread_id, view.parent, user_id=user)

    async def remove(self, process: Process) -> None:
        if (run_id := self._any_run()) is not None:
            await process.manager.runs.delete(run_id, user_id=self._user())
