"""The lock port: a thread's slot in Redis, a cache of the store's thread ownership.

The slot may be stale or absent. It answers "busy" quickly, so that `reject` rarely costs a store write. It
never creates, ends or owns a run (law 1: the store decides, Redis only speeds up).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SlotState(StrEnum):
    free = "free"  # no other run holds the thread according to the slot: the store decides
    busy = "busy"  # a run holds the thread according to the slot: verify in the store before rejecting
    unknown = "unknown"  # no answer within the budget, or no Redis: the store decides


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    state: SlotState
    holder: str | None = None  # run id if the state is busy


class SlotLock(Protocol):
    """No method raises because the transport is unreachable."""

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        """Return whether the slot admits `run_id` to the thread. Reads only: the slot is written after the
        store's commit, because two admissions of the same moment are decided by the store.

        Bounded by the admission budget (250 ms); while the circuit is open it returns `unknown` immediately,
        without I/O.
        """
        ...

    def bind(self, thread_id: str, run_id: str, *, fence: int) -> None:
        """Assign the slot to a run after the store's commit. A late call may replace the slot of a newer run;
        the next `bind` or `release` on the thread corrects it. Fire and forget."""
        ...

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        """After settling: publish `settled` on the thread's channel, and free the slot unless its fence is
        higher. No effect if `fence` is 0, because the run has never held the thread. Idempotent. Fire and
        forget."""
        ...
