"""Rollback of a thread to its state before a run, in every storage of state."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.assistants.bounded import bounded
from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.references import referenced
from coordinator.assistants.values import StoredValues
from coordinator.schemas import Json
from stores.rows import Ownership

logger = logging.getLogger(__name__)


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
        restoring = storage.restore(own.thread_id, own.run_id, ref, own.fence)
        values = await bounded(restoring, self._within, "restoring its state")
        return restored if values is None or referenced(restored) else values

    async def forget(self, run_id: str, ref: Json, states: ThreadStates | None = None) -> None:
        """As `ThreadStates.forget`, of `states` or of the storage of kind `ref["kind"]`. Best effort: a
        failure is logged; if this process does not have that kind, the data stays until the thread is
        removed."""
        try:
            storage = states or self._states_of(ref)
        except LookupError:
            return
        if storage is self._values:  # its undo data is part of the run's row
            return
        try:
            await bounded(storage.forget((run_id,)), self._within, "removing its undo data")
        except Exception:
            logger.warning("Rollback data of run %r could not be removed", run_id, exc_info=True)
