"""The lease: until when this worker may act, checked inline from any thread.

deadline = start of the last successful renewal + ttl - margin, on `clock` (CLOCK_BOOTTIME where the
platform has it, see `coordinator.clock`). Once it has passed, or somebody found that it has, nothing
brings the lease back: a renewal that comes too late is of no use, the worker registers anew.
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
BURIED = "a peer has buried this epoch, or the store has lost its registration"


class _Term(NamedTuple):
    epoch: int
    deadline: float
    """-inf = over."""


class Lease:
    """Every method may be called from any thread. `on_end(epoch, why)` is called once for each epoch
    whose lease ended by itself or was revoked, from the thread that found out: it must not block."""

    def __init__(self, term: float, *, clock: Callable[[], float] = boottime) -> None:
        self._length, self.clock = term, clock
        self._term = _Term(0, -math.inf)  # replaced as a whole, so that `check` needs no lock
        self._changing = threading.Lock()
        self.on_end: Callable[[int, str], None] = _nobody

    @property
    def epoch(self) -> int:
        """The newest epoch that had a lease; 0 before the first."""
        return self._term.epoch

    @property
    def held(self) -> bool:
        """Not over, as far as anybody has looked."""
        return self._term.deadline > -math.inf

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 where it has passed, infinite where it never comes."""
        return max(0.0, self._term.deadline - self.clock())

    def begin(self, epoch: int, began: float, *, endless: bool = False) -> None:
        """A registration that was asked for at `began` (on `clock`) has an epoch and its first lease."""
        with self._changing:
            self._term = _Term(epoch, math.inf if endless else began + self._length)

    def renewed(self, epoch: int, began: float) -> bool:
        """A renewal that began then has been committed. False = too late, or not the current epoch."""
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
        """Raise LeaseLost where `epoch` may not act any more. Cheap: every owner's write asks."""
        term = self._term
        if term.epoch == epoch and self.clock() <= term.deadline:
            return
        if not self.alive(epoch):
            raise LeaseLost(epoch)

    def alive(self, epoch: int) -> bool:
        """May `epoch` act? The first "no" of an epoch is final, for everybody."""
        term = self._term
        if term.epoch != epoch:
            return False
        return self.clock() <= term.deadline or not self._lapse(epoch)

    def revoke(self, epoch: int, why: str) -> None:
        """The store says that the epoch is dead. Idempotent; other epochs are left alone."""
        if self.end(epoch):
            self.on_end(epoch, why)

    def end(self, epoch: int) -> bool:
        """As `revoke`, and nobody is told. False = it was over already, or is not the current one."""
        with self._changing:
            if self._term.epoch != epoch or self._term.deadline == -math.inf:
                return False
            self._term = _Term(epoch, -math.inf)
            return True

    def _lapse(self, epoch: int) -> bool:
        """End the lease if its deadline has passed. True = it is over."""
        with self._changing:
            term = self._term
            if term.epoch != epoch or term.deadline == -math.inf:
                return True
            if self.clock() <= term.deadline:  # renewed since the caller looked
                return False
            self._term = _Term(epoch, -math.inf)
        self.on_end(epoch, TOO_LATE)
        return True


class Pacemaker(Protocol):
    """Where the heartbeats come from: renews the lease of whatever epoch is current."""

    @property
    def lag(self) -> float | None:
        """How long the event loop took to answer when it was last asked (s); None = not measured."""
        ...

    @property
    def stall(self) -> StallWatch | None:
        """Watches the event loop from a thread; None = nothing does."""
        ...

    @property
    def failing_since(self) -> float | None:
        """When the renewals began to fail, on the lease's clock; None = the last one was written."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the last renewal failed; None = it was written."""
        ...

    def start(self, lease: Lease) -> None:
        """Begin, on the running event loop. Idempotent until `stop`."""
        ...

    async def stop(self) -> None:
        """No beat begins after this returns. Bounded; idempotent."""
        ...


def _nobody(epoch: int, why: str) -> None:
    del epoch, why
