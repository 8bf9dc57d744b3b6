"""Claims requested by hints: as many as are needed, however many hints arrive."""

from __future__ import annotations

import asyncio

from coordinator.runs.hinted_claims import AT_ONCE, HintedClaims
from coordinator.runs.jobs import Jobs
from tests.support.inside import under_way_in
from tests.support.waiting import wait_until


class BlockedClaims:
    """Claims and ticks block until `go_on` is set."""

    def __init__(self) -> None:
        self.claims, self.ticks = list[str](), 0
        self.at_once = self.most = 0
        self.go_on = asyncio.Event()
        self.hinted = HintedClaims(Jobs(), claim=self._claim, tick=self._tick)

    async def _claim(self, thread_id: str) -> None:
        self.claims.append(thread_id)
        await self._stand_still()

    async def _tick(self) -> None:
        self.ticks += 1
        await self._stand_still()

    async def _stand_still(self) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go_on.wait()
        self.at_once -= 1

    async def over(self) -> None:
        self.go_on.set()
        await wait_until(lambda: not under_way_in(self.hinted), description="nothing is under way")


async def test_hints_that_come_during_a_claim_of_their_thread_request_one_more() -> None:
    """One of them may be about what has changed since that claim began."""
    blocked = BlockedClaims()
    for _ in range(20_000):
        blocked.hinted.thread("t")
    await wait_until(lambda: blocked.at_once == 1, description="the claim is under way")
    for _ in range(20_000):
        blocked.hinted.thread("t")
    await blocked.over()
    assert blocked.claims == ["t", "t"]
    blocked.hinted.thread("t")
    await blocked.over()
    assert blocked.claims == ["t", "t", "t"]


async def test_hints_about_more_threads_than_are_claimed_at_once_end_in_a_tick() -> None:
    blocked = BlockedClaims()
    for number in range(20_000):
        blocked.hinted.thread(f"t{number}")
    await wait_until(lambda: blocked.at_once == AT_ONCE + 1, description="as many as may are under way")
    await blocked.over()
    assert (len(blocked.claims), blocked.most) == (AT_ONCE, AT_ONCE + 1)
    assert blocked.ticks in (1, 2)


async def test_requests_for_a_tick_that_come_during_a_tick_request_one_more() -> None:
    blocked = BlockedClaims()
    blocked.hinted.everything()
    await wait_until(lambda: blocked.at_once == 1, description="the tick is under way")
    for _ in range(5_000):
        blocked.hinted.everything()
    await blocked.over()
    assert blocked.ticks == 2


async def test_a_claim_that_fails_does_not_end_later_ones() -> None:
    claims = list[str]()

    async def fails(thread_id: str) -> None:
        claims.append(thread_id)
        raise RuntimeError("no")

    async def tick() -> None:
        raise AssertionError

    hinted = HintedClaims(Jobs(), claim=fails, tick=tick)
    for _ in range(2):
        hinted.thread("t")
        await wait_until(lambda: not under_way_in(hinted), description="it is over")
    assert claims == ["t", "t"]
