"""The slot lock where there is no Redis: the store answers everything."""

from __future__ import annotations

from coordinator.lock import SlotAnswer, SlotState
from coordinator.notifier import Notifier, Signal

_UNKNOWN = SlotAnswer(SlotState.unknown)
_SETTLED = Signal(kind="settled")  # without ids: every run would pay for them, and its reader looks anyway


class LocalSlotLock:
    """Knows nothing and says so at once. Still tells `notifier` that a thread is free, as every lock does."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        return _UNKNOWN

    def bind(self, thread_id: str, run_id: str, *, epoch: int, fence: int) -> None:
        """Nothing to do."""

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        if fence:
            self._notifier.notify_thread(thread_id, _SETTLED)
