"""Putting a thread back to where it was before a run, wherever its state is kept."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.schemas import Json
from stores.rows import Ownership


class Undo:
    """Every thread has values in our store. An assistant with states of its own may have saved there what is
    to be seen of them, and that is undone as well."""

    def __init__(self, values: StoredValues, states_of: Callable[[Json], ThreadStates]) -> None:
        self._values, self._states_of = values, states_of

    async def restore(self, own: Ownership, ref: Json, states: ThreadStates | None = None) -> Json:
        """As `ThreadStates.restore`, of `states` or of the kind that `ref` names. Raises LookupError where
        this process does not know that."""
        known = states or self._states_of(ref)
        if known is not self._values:
            await self._values.restore(own.thread_id, own.run_id, ref, own.fence)
        return await known.restore(own.thread_id, own.run_id, ref, own.fence)
