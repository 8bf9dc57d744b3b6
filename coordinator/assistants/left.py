"""The state that a run has left on its thread, from the assistant that keeps it."""

from __future__ import annotations

import logging
from typing import NamedTuple

from coordinator.assistants.bounded import bounded
from coordinator.assistants.ports import Assistant
from coordinator.assistants.references import copied
from coordinator.assistants.values import StoredValues
from coordinator.schemas import Json, StateView, User
from stores.sql.codec import dumps

logger = logging.getLogger(__name__)


class LeftState(NamedTuple):
    """`interrupts` as JSON; None = the thread waits for no answer."""

    values: Json
    interrupts: Json

    @classmethod
    def of(cls, view: StateView, assistant: Assistant, *, copy_bytes: int) -> LeftState:
        """What the thread's row keeps of the current state. `copy_bytes`: as `limit` of `copied`."""
        interrupts = [interrupt.stored for interrupt in view.interrupts] or None
        return cls(copied(assistant, view.values, None, limit=copy_bytes), interrupts)


class LeftStates:
    """Reads it, best effort: a run ends even if its state cannot be read within `within` s."""

    def __init__(self, values: StoredValues, *, within: float, copy_bytes: int) -> None:
        self._values, self._within, self._copy_bytes = values, within, copy_bytes

    def kept_by(self, assistant: Assistant) -> bool:
        """Whether the assistant keeps the state of threads in a storage of its own."""
        return assistant.states is not self._values

    async def read(self, assistant: Assistant, thread_id: str, user: User | None) -> LeftState | None:
        """Must be called after `close`, while the run holds the thread. Returns None if there is no state, or
        it cannot be read or stored, which is logged."""
        try:
            view = await bounded(assistant.state(thread_id, user=user), self._within, "reading the state")
            if view is None:
                return None
            left = LeftState.of(view, assistant, copy_bytes=self._copy_bytes)
            self._values.check_size(left.values)
            dumps(left.values)
            dumps(left.interrupts)
        except Exception:
            logger.warning(
                "The state of thread %r could not be read from its assistant %r when a run ended: the values"
                " of the thread stay as they were",
                thread_id,
                assistant.name,
                exc_info=True,
            )
            return None
        return left
