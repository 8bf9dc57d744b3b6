"""Putting a thread back to where it was before a run, wherever its state is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.schemas import Json
from stores.rows import Ownership
from stores.tasks import begin_soon

T = TypeVar("T")


class Undo:
    """Every thread has values in our store. An assistant with states of its own may have saved there what is
    to be seen of them, and that is undone as well. Each call of theirs has `within` s."""

    def __init__(
        self, values: StoredValues, states_of: Callable[[Json], ThreadStates], *, within: float
    ) -> None:
        self._values, self._states_of, self._within = values, states_of, within

    async def restore(self, own: Ownership, ref: Json, states: ThreadStates | None = None) -> Json:
        """As `ThreadStates.restore`, of `states` or of the kind that `ref` names. Raises LookupError where
        this process does not know that, TimeoutError where it takes too long."""
        known = states or self._states_of(ref)
        restored = await self._values.restore(own.thread_id, own.run_id, ref, own.fence)
        if known is self._values:
            return restored
        # What it still writes when its time is over is refused by the fence of the next attempt.
        return await self._bounded(
            known.restore(own.thread_id, own.run_id, ref, own.fence), "restoring its state"
        )

    async def forget(self, run_id: str, states: ThreadStates) -> None:
        """As `ThreadStates.forget`. Raises TimeoutError where it takes too long."""
        if states is self._values:  # that keeps nothing apart from the run's row
            return
        await self._bounded(states.forget((run_id,)), "forgetting its undo data")

    async def _bounded(self, call: Coroutine[Any, Any, T], what: str) -> T:
        """It may take no notice of its cancel."""
        work = begin_soon(call)
        try:
            await asyncio.wait((work,), timeout=self._within)
        finally:
            if not work.done():
                work.cancel()
                work.add_done_callback(_seen)
        if not work.done():
            raise TimeoutError(f"{what} took longer than {self._within:g} s")
        return work.result()


def _seen(work: asyncio.Task[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log that nobody did."""
    if not work.cancelled():
        work.exception()
