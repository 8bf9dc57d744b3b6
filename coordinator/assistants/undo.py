"""Rollback of a thread to its state before a run, in every storage of state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.schemas import Json
from stores.rows import Ownership
from stores.tasks import begin_soon

T = TypeVar("T")


class Undo:
    """Restores the values in our store and, for assistants with a storage of their own, that storage as well:
    such an assistant may also have saved values. Each call of a foreign storage is limited to `within` s."""

    def __init__(
        self, values: StoredValues, states_of: Callable[[Json], ThreadStates], *, within: float
    ) -> None:
        self._values, self._states_of, self._within = values, states_of, within

    async def restore(self, own: Ownership, ref: Json, states: ThreadStates | None = None) -> Json:
        """As `ThreadStates.restore`, of `states` or of the storage of kind `ref["kind"]`. Raises LookupError
        if this process does not have that kind, TimeoutError after `within` s."""
        storage = states or self._states_of(ref)
        restored = await self._values.restore(own.thread_id, own.run_id, ref, own.fence)
        if storage is self._values:
            return restored
        # Writes of a call that timed out are refused by the fence of the next attempt.
        return await self._bounded(
            storage.restore(own.thread_id, own.run_id, ref, own.fence), "restoring its state"
        )

    async def forget(self, run_id: str, states: ThreadStates) -> None:
        """As `ThreadStates.forget`. Raises TimeoutError after `within` s."""
        if states is self._values:  # its undo data is part of the run's row
            return
        await self._bounded(states.forget((run_id,)), "removing its undo data")

    async def _bounded(self, call: Coroutine[object, object, T], what: str) -> T:
        """Wait at most `within` s, without waiting for a call that ignores its cancel."""
        work = begin_soon(call)
        try:
            await asyncio.wait((work,), timeout=self._within)
        finally:
            if not work.done():
                work.cancel()
                work.add_done_callback(_retrieve_exception)
        if not work.done():
            raise TimeoutError(f"{what} took longer than {self._within:g} s")
        return work.result()


def _retrieve_exception(work: asyncio.Task[object]) -> None:
    """Retrieve the exception, so that asyncio does not log "exception was never retrieved"."""
    if not work.cancelled():
        work.exception()
