"""The lock port: a thread's slot as Redis knows it.

The slot may be stale or absent. It answers "busy" fast so that `reject` rarely costs a store write;
it never creates, ends or owns a run (law 1, "the store decides; Redis only hurries").
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SlotState(StrEnum):
    free = "free"  # reserved for the asking run for 5 s
    busy = "busy"  # some run holds the thread, says the slot: verify in the store before refusing
    reserving = "reserving"  # another run is between "asked" and "committed": the store will decide
    unknown = "unknown"  # no answer within the budget, or no Redis: go to the store


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    state: SlotState
    holder: str | None = None  # run id, where state is busy or reserving


class SlotLock(Protocol):
    """No method ever raises because the transport is away."""

    async def admit(self, thread_id: str, run_id: str) -> SlotAnswer:
        """Ask for the slot on behalf of `run_id`. Asking again with the same run is harmless.

        Bounded by the admission budget (250 ms); while the circuit is open the answer is `unknown`
        at once, without I/O.
        """
        ...

    def bind(self, thread_id: str, run_id: str, *, epoch: int, fence: int) -> None:
        """After the store's commit: the slot is this run's. A late call cannot go back to a lower
        fence. Fire and forget."""
        ...

    def release(self, thread_id: str, run_id: str, *, fence: int) -> None:
        """After settle: free the slot where run and fence match, drop the run's reservation, and
        publish `settled` on the thread's channel. Twice is harmless. `fence=0` only drops the
        reservation (admission was refused) and publishes nothing. Fire and forget."""
        ...
