"""Which user gets the next place, where there are few."""

from __future__ import annotations

import asyncio

import pytest

from stores.errors import StoreUnavailable
from stores.fair_queue import FairQueue
from tests.support.inside_stores import waiters_of


class Scene:
    def __init__(self, places: int = 1, within: float = 60.0) -> None:
        self.queue = FairQueue(places, within=within, what="searches")
        self.had: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, user: str, name: str) -> asyncio.Task[None]:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.ensure_future(self._take(user, name))
        return self.tasks[name]

    async def _take(self, user: str, name: str) -> None:
        async with self.queue.place(user):
            self.had.append(name)
            await self.ends[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await self.tasks[name]
            await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_user_with_many_requests_does_not_delay_user_with_one() -> None:
    scene = Scene()
    for name in ("a1", "a2", "a3"):
        scene.begin("alice", name)
    scene.begin("bob", "b1")
    await settle()
    await scene.end("a1", "b1", "a2", "a3")
    assert scene.had == ["a1", "b1", "a2", "a3"]
    scene.begin("bob", "b2")
    await settle()
    assert scene.had[-1] == "b2", "all places are free again"
    await scene.end("b2")


async def test_cancelled_waiter_leaves_the_queue() -> None:
    scene = Scene()
    for name in ("a1", "a2", "a3"):
        scene.begin("alice", name)
    await settle()
    scene.tasks["a2"].cancel()
    await settle()
    await scene.end("a1", "a3")
    assert scene.had == ["a1", "a3"]


async def test_place_of_waiter_cancelled_when_admitted_is_passed_on() -> None:
    scene = Scene()
    for name in ("a1", "a2", "a3"):
        scene.begin("alice", name)
    await settle()
    scene.ends["a1"].set()
    while waiters_of(scene.queue, "alice") > 1:  # noqa: ASYNC110 - then the place is a2's, unheard of yet
        await asyncio.sleep(0)
    scene.tasks["a2"].cancel()
    await settle()
    assert scene.had == ["a1", "a3"]
    await scene.end("a3")


async def test_waiter_times_out_and_does_not_block_the_queue() -> None:
    scene = Scene(within=0.01)
    scene.begin("alice", "a1")
    await settle()
    with pytest.raises(StoreUnavailable, match="searches"):
        await scene.begin("bob", "b1")
    await scene.end("a1")
    scene.begin("alice", "a2")
    await settle()
    assert scene.had == ["a1", "a2"]
    await scene.end("a2")


async def test_concurrency_is_bounded_by_places() -> None:
    scene = Scene(places=2)
    for name in ("a1", "a2", "a3"):
        scene.begin("alice", name)
    await settle()
    assert scene.had == ["a1", "a2"]
    await scene.end("a2", "a3", "a1")
    assert scene.had == ["a1", "a2", "a3"]
