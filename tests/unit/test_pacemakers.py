"""A renewed lease counts from before the store was called: its response may be late. The thread that
renews it outlives whatever a heartbeat raises."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from coordinator.settings import Settings
from coordinator.workers.lease import Lease
from coordinator.workers.pacemaker import LoopPacemaker, LoopProbe, ThreadPacemaker
from tests.support.inside import beat_of
from tests.support.waiting import wait_until

TERM, LATE = 4.0, 3.0


class SlowStore:
    """Answers `LATE` s after the call, by a clock of its own."""

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


async def test_loop_pacemaker_counts_the_lease_from_before_the_store_answered() -> None:
    store = Waiting()
    lease = leased(store)
    await beat_of(LoopPacemaker(cast(Any, store), Settings()))(lease)
    assert lease.remaining == TERM - LATE


async def test_thread_pacemaker_counts_the_lease_from_before_the_store_answered() -> None:
    store = Blocking()
    lease = leased(store)
    probe = LoopProbe(asyncio.get_running_loop(), store.clock, 60.0)
    assert beat_of(ThreadPacemaker(cast(Any, store), Settings()))(cast(Any, store), lease, probe)
    assert lease.remaining == TERM - LATE


class FaultyHeart:
    """Raises at its first beat what no store is expected to raise."""

    def __init__(self, faults: list[Exception]) -> None:
        self.faults, self.closed = faults, False

    def beat(self, epoch: int) -> bool:
        del epoch
        if self.faults:
            raise self.faults.pop()
        return True

    def close(self) -> None:
        self.closed = True


class FaultyStore:
    def __init__(self, *faults: Exception) -> None:
        self.hearts: list[FaultyHeart] = []
        self._faults = list(faults)

    def heart(self) -> FaultyHeart:
        self.hearts.append(FaultyHeart(self._faults))
        return self.hearts[-1]


async def test_heartbeat_thread_renews_the_lease_after_an_unexpected_exception() -> None:
    store, lease = FaultyStore(RuntimeError("not foreseen")), Lease(60.0)
    lease.begin(1, lease.clock() - 30.0)
    pacemaker = ThreadPacemaker(cast(Any, store), Settings(renew=0.02))
    pacemaker.start(lease)
    try:
        await wait_until(lambda: lease.remaining > 50.0, description="the lease is renewed", timeout=10)
    finally:
        await pacemaker.stop()
    failed, healthy = store.hearts
    assert failed.closed, "a connection that failed in an unknown way is not used again"
    assert healthy.closed, "the thread closes its connection when it ends"
    assert pacemaker.failing_since is None
