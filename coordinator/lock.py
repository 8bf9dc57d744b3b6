"""The lock port: a thread's slot in Redis, a cache of the store's thread ownership.

The slot may be stale or absent. It answers "busy" quickly, so that `reject` rarely costs a store write. It
never creates, ends or owns a run (law 1: the store decides, Redis only speeds up).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SlotState(StrEnum):
    free = "free"  # reserved for the admitted run for 5 s
    busy = "busy"  # a run holds the thread according to the slot: verify in the store before rejecting
    reserving = "reserving"  # another run is reserved, but not committed: the store decides
    unknown = "unknown"  # no answer within the budget, or no Redis: the store decides


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    state: SlotState
    holder: str | None = None  # run id if the state is busy or reserving


class SlotLock(Protocol):
    """No method raises because the transport is unreachable."""

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        """Reserve the slot for `run_id`. Idempotent for a run.

        Bounded by the admission budget (250 ms); while the circuit is open it returns `unknown` immediately,
        without I/O.
        """
        ...

    def bind(self, thread_id: str, run_id: str, *, epoch: int, fence: int) -> None:
        """Assign the slot to a run after the store's commit. A lower fence never replaces a higher one. Fire
        and forget."""
        ...

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        """After settling: free the slot if run and fence match, drop the run's reservation, and publish
        `settled` on the thread's channel. `fence=0` (the admission was rejected) only drops the reservation
        and publishes nothing. Idempotent. Fire and forget."""
        ...
