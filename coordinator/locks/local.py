"""The slot lock without Redis: every admission is decided by the store."""

from __future__ import annotations

from coordinator.lock import SlotAnswer, SlotState
from coordinator.notifier import Notifier, Signal

_UNKNOWN = SlotAnswer(SlotState.unknown)
_SETTLED = Signal(
    kind="settled"
)  # without ids: receivers re-read the store anyway, so ids would only cost time


class LocalSlotLock:
    """Returns `unknown` for every admission. Notifies the thread's waiters on release, as every lock does."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        return _UNKNOWN

    def bind(self, thread_id: str, run_id: str, *, fence: int) -> None:
        """No effect: there is no slot to write."""

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        if fence:
            self._notifier.notify_thread(thread_id, _SETTLED)
