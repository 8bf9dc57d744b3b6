"""Look-ups of names: how many run at once, and in which order the others wait for a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from coordinator.webhooks.lanes import Full
from coordinator.webhooks.lookups import Lookups
from tests.support.inside import after_release_of
from tests.support.names import SlowNames, slow_names
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
async def nothing_left(no_task_left: None) -> None:
    """No look-up leaves a task behind."""


@pytest.fixture
def names() -> Generator[SlowNames]:
    with slow_names() as names:
        yield names


def lookup_task(lookups: Lookups, host: str, user_id: str | None = None) -> asyncio.Task[list[str]]:
    return asyncio.create_task(lookups.addresses(host, 443, user_id=user_id))


async def test_look_ups_execute_in_their_own_threads() -> None:
    assert "127.0.0.1" in await Lookups().addresses("localhost", 80)
    with pytest.raises(OSError, match=r".+"):
        await Lookups().addresses("does-not-exist.invalid.", 80)


async def test_slow_names_of_one_user_leave_look_up_threads_for_others(names: SlowNames) -> None:
    lookups = Lookups(names, threads=4, per_user=2)
    slow = [lookup_task(lookups, f"slow{number}", "alice") for number in range(10)]
    await wait_until(lambda: len(names.queried) == 2, description="alice has a full share of the threads")
    assert await lookups.addresses("quick", 443, user_id="bob") == ["127.0.0.1"]
    assert await lookups.addresses("quick", 443) == ["127.0.0.1"]
    assert names.queried == ["slow0", "slow1", "quick", "quick"]
    names.released.set()
    assert await asyncio.gather(*slow) == [["127.0.0.1"]] * 10


async def test_look_up_occupies_its_thread_after_its_caller_is_cancelled(names: SlowNames) -> None:
    lookups = Lookups(names, threads=4, per_user=2, patience=0.01)
    given_up = [lookup_task(lookups, f"slow{number}", "alice") for number in range(2)]
    await wait_until(lambda: len(names.queried) == 2, description="both are looked up")
    for task in given_up:
        task.cancel()
    await asyncio.wait(given_up)
    with pytest.raises(Full):
        await lookups.addresses("slow2", 443, user_id="alice")
    names.released.set()

    async def free() -> bool:
        try:
            return await lookups.addresses("slow3", 443, user_id="alice") == ["127.0.0.1"]
        except Full:
            return False

    await wait_until(free, description="the threads are free again")
    assert "slow2" not in names.queried


async def test_waiting_for_a_look_up_thread_is_bounded(names: SlowNames) -> None:
    lookups = Lookups(names, threads=1, per_user=1, patience=0.01)
    begun: list[str] = []
    first = asyncio.create_task(
        lookups.addresses("slow", 443, user_id="alice", begun=lambda: begun.append("first"))
    )
    await wait_until(lambda: begun == ["first"], description="the thread is taken")
    with pytest.raises(Full) as full:
        await lookups.addresses("quick", 443, user_id="bob", begun=lambda: begun.append("second"))
    assert full.value.retry_in == 0.01
    assert begun == ["first"]
    names.released.set()
    await first


async def test_free_thread_goes_to_the_first_waiter_within_its_share(names: SlowNames) -> None:
    lookups = Lookups(names, threads=2, per_user=1)
    tasks = [lookup_task(lookups, "slow-a", "alice"), lookup_task(lookups, "slow-b", "bob")]
    await wait_until(lambda: len(names.queried) == 2, description="all threads are taken")
    tasks += [
        lookup_task(lookups, "second-a", "alice"),
        lookup_task(lookups, "third-a", "alice"),
        lookup_task(lookups, "c", "carol"),
    ]
    left = lookup_task(lookups, "left", "dave")
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait((left,))
    names.released.set()
    assert await asyncio.gather(*tasks) == [["127.0.0.1"]] * 5
    assert "left" not in names.queried
    assert names.queried.index("second-a") < names.queried.index("third-a")


async def test_thread_acquired_by_cancelled_waiter_goes_to_the_next(names: SlowNames) -> None:
    lookups = Lookups(names, threads=1, per_user=1)
    first = lookup_task(lookups, "slow", "alice")
    await wait_until(lambda: names.queried == ["slow"], description="the thread is taken")
    leaves, stays = lookup_task(lookups, "leaves", "bob"), lookup_task(lookups, "stays", "carol")
    await asyncio.sleep(0)
    after_release_of(lookups, leaves.cancel)
    names.released.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert await stays == ["127.0.0.1"]
    assert names.queried == ["slow", "stays"]
