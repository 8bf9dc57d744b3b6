"""A lease that was renewed counts from before the store was asked: its answer may be late."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from coordinator.settings import Settings
from coordinator.workers.lease import Lease
from coordinator.workers.pacemaker import LoopPacemaker, ThreadPacemaker, Turning

TERM, LATE = 4.0, 3.0


class SlowStore:
    """Answers `LATE` s after it was asked, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def _answer(self) -> bool:
        self.now += LATE
        return True


class Waiting(SlowStore):
    async def beat(self, epoch: int) -> bool:
        del epoch
        return self._answer()


class Blocking(SlowStore):
    def beat(self, epoch: int) -> bool:
        del epoch
        return self._answer()


def leased(store: SlowStore) -> Lease:
    lease = Lease(TERM, clock=store.clock)
    lease.begin(1, store.now)
    return lease


async def test_renewed_from_the_loop() -> None:
    store = Waiting()
    lease = leased(store)
    await LoopPacemaker(cast(Any, store), Settings())._beat(lease)
    assert lease.remaining == TERM - LATE


async def test_renewed_from_a_thread() -> None:
    store = Blocking()
    lease = leased(store)
    turning = Turning(asyncio.get_running_loop(), store.clock, 60.0)
    assert ThreadPacemaker(cast(Any, store), Settings())._beat(cast(Any, store), lease, turning)
    assert lease.remaining == TERM - LATE
