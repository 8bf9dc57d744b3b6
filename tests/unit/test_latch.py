from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from coordinator.runs.latch import Latch


async def test_every_waiter_returns_when_the_latch_is_set() -> None:
    latch = Latch()
    waiters = [asyncio.ensure_future(latch.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    latch.set()
    latch.set()
    await asyncio.gather(*waiters)
    await latch.wait()
    assert latch.is_set()


async def test_cancelled_waiter_does_not_affect_the_others() -> None:
    latch = Latch()
    first, second = (asyncio.ensure_future(latch.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not second.done()
    latch.set()
    await second


async def test_waiter_that_is_cancelled_after_the_latch_was_set_is_cancelled() -> None:
    latch = Latch()
    waiter = asyncio.ensure_future(latch.wait())
    await asyncio.sleep(0)
    latch.set()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_waits_that_time_out_leave_nothing_on_the_latch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a client that polls a run for hours."""
    latch, futures = Latch(), weakref.WeakSet[asyncio.Future[None]]()
    loop = asyncio.get_running_loop()
    create = loop.create_future

    def create_future() -> asyncio.Future[None]:
        future: asyncio.Future[None] = create()
        futures.add(future)
        return future

    monkeypatch.setattr(loop, "create_future", create_future)
    for _ in range(50):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await latch.wait()
    gc.collect()
    assert len(futures) <= 5, "of 50; the task of this test may keep the last one, and others use the loop"
