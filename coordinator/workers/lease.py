"""The lease: until when this worker may act, checked inline from any thread.

deadline = start of the last successful renewal + ttl - margin, on `clock` (CLOCK_BOOTTIME if the platform has
it, see `coordinator.clock`). A lease that has expired, or was revoked, is never extended: a late renewal is
rejected, and the worker registers with a new epoch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from coordinator.clock import boottime
from coordinator.errors import LeaseLost
from coordinator.workers.stall import StallWatch

TOO_LATE = "the lease could not be renewed in time"
DECLARED_DEAD = "a peer declared this worker dead, or the store has lost its registration"


class _Term(NamedTuple):
    epoch: int
    deadline: float
    """-inf = ended."""


class Lease:
    """Every method may be called from any thread. `on_end(epoch, why)` is called once for each epoch whose
    lease expired or was revoked, from the thread that detected it. It must not block."""

    def __init__(self, term: float, *, clock: Callable[[], float] = boottime) -> None:
        self._length, self.clock = term, clock
        self._term = _Term(0, -math.inf)  # replaced as a whole, so that `check` needs no lock
        self._changing = threading.Lock()
        self.on_end: Callable[[int, str], None] = _ignore

    @property
    def epoch(self) -> int:
        """The newest epoch that had a lease; 0 before the first."""
        return self._term.epoch

    @property
    def held(self) -> bool:
        """Whether the lease has not been ended. An expired lease counts as held until a call detects it."""
        return self._term.deadline > -math.inf

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 if it has passed, infinite for an endless lease."""
        return max(0.0, self._term.deadline - self.clock())

    def begin(self, epoch: int, began: float, *, endless: bool = False) -> None:
        """Starts the lease of `epoch`, whose registration was sent at `began` (on `clock`)."""
        with self._changing:
            self._term = _Term(epoch, math.inf if endless else began + self._length)

    def renewed(self, epoch: int, began: float) -> bool:
        """Extends the lease after a renewal that was sent at `began` is committed. Returns False if the lease
        has ended, or `epoch` is not the current one."""
        with self._changing:
            term = self._term
            if term.epoch != epoch or term.deadline == -math.inf:
                return False
            if self.clock() <= term.deadline:
                self._term = _Term(epoch, max(term.deadline, began + self._length))
                return True
        self._lapse(epoch)
        return False

    def check(self, epoch: int) -> None:
        """Raises LeaseLost if `epoch` may not act any more. Cheap: called before every write of an owner."""
        term = self._term
        if term.epoch == epoch and self.clock() <= term.deadline:
            return
        if not self.alive(epoch):
            raise LeaseLost(epoch)

    def alive(self, epoch: int) -> bool:
        """Returns whether `epoch` may act. The first False for an epoch is final, for all callers."""
        term = self._term
        if term.epoch != epoch:
            return False
        return self.clock() <= term.deadline or not self._lapse(epoch)

    def revoke(self, epoch: int, why: str) -> None:
        """Ends the lease of `epoch`, because the store reports it dead, and calls `on_end`. Idempotent; no
        effect on other epochs."""
        if self.end(epoch):
            self.on_end(epoch, why)

    def end(self, epoch: int) -> bool:
        """As `revoke`, without `on_end`. Returns False if the lease had ended, or `epoch` is not the current
        one."""
        with self._changing:
            if self._term.epoch != epoch or self._term.deadline == -math.inf:
                return False
            self._term = _Term(epoch, -math.inf)
            return True

    def _lapse(self, epoch: int) -> bool:
        """Ends the lease if its deadline has passed. Returns whether it has ended."""
        with self._changing:
            term = self._term
            if term.epoch != epoch or term.deadline == -math.inf:
                return True
            if self.clock() <= term.deadline:  # renewed since the caller read it
                return False
            self._term = _Term(epoch, -math.inf)
        self.on_end(epoch, TOO_LATE)
        return True


class Pacemaker(Protocol):
    """Sends the heartbeats that renew the lease of the current epoch."""

    @property
    def lag(self) -> float | None:
        """Delay of the event loop at the last probe (s); None = not measured."""
        ...

    @property
    def stall(self) -> StallWatch | None:
        """Detector of stalls of the event loop; None = there is none."""
        ...

    @property
    def failing_since(self) -> float | None:
        """When the first of the failing renewals began, on the lease's clock; None = the last one was
        committed."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the last renewal failed; None = it was committed."""
        ...

    def start(self, lease: Lease) -> None:
        """Starts the heartbeats; must be called on the event loop. Idempotent until `stop`."""
        ...

    async def stop(self) -> None:
        """Stops the heartbeats: none begins after this returns. Bounded in time; idempotent."""
        ...


def _ignore(epoch: int, why: str) -> None:
    del epoch, why
