"""What every slot lock does, and what one does that has a memory. Entered by subclassing the suites."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.lock import SlotAnswer, SlotLock, SlotState
from coordinator.notifier import Notifier

ODD_IDS = ["", "x" * 300, "é ü", "{t:x}", "a*b?[c]", "\0", "\ud800", "bf", "r"]


class SlotLockSuite:
    """Holds for every adapter. The subclass has fixtures `lock` and `notifier`, which hears the lock."""

    @pytest.mark.parametrize("odd", ODD_IDS, ids=ascii)
    async def test_any_id_will_do(self, lock: SlotLock, odd: str) -> None:
        answer = await lock.admit(odd, odd)
        assert answer.state in {SlotState.free, SlotState.unknown}
        lock.bind(odd, odd, epoch=1, fence=1)
        lock.release(odd, odd, fence=1)

    async def test_releasing_wakes_who_watches_the_thread(self, lock: SlotLock, notifier: Notifier) -> None:
        async with notifier.watch("t") as wakeup:
            lock.bind("t", "r1", epoch=1, fence=1)
            lock.release("t", "r1", fence=1)
            assert await wakeup.wait(5)

    async def test_it_wakes_them_though_the_slot_is_gone(self, lock: SlotLock, notifier: Notifier) -> None:
        async with notifier.watch("t") as wakeup:
            lock.release("t", "r1", fence=1)
            assert await wakeup.wait(5)

    @pytest.mark.parametrize("odd", ODD_IDS, ids=ascii)
    async def test_it_wakes_them_whatever_the_ids(self, lock: SlotLock, notifier: Notifier, odd: str) -> None:
        async with notifier.watch(odd) as wakeup:
            lock.release(odd, odd, fence=1)
            assert await wakeup.wait(5)

    async def test_giving_a_reservation_back_wakes_nobody(self, lock: SlotLock, notifier: Notifier) -> None:
        async with notifier.watch("t") as wakeup, notifier.watch("later") as later:
            lock.release("t", "r1", fence=0)
            lock.release("later", "r1", fence=1)
            assert await later.wait(5)
            assert not await wakeup.wait(0)

    async def test_releasing_twice_does_no_harm(self, lock: SlotLock) -> None:
        lock.bind("t", "r1", epoch=1, fence=1)
        lock.release("t", "r1", fence=1)
        lock.release("t", "r1", fence=1)
        assert (await lock.admit("t", "r2")).state in {SlotState.free, SlotState.unknown}


class RememberingSlotSuite:
    """Holds for adapters that know the slot. The subclass has a fixture `lock`."""

    async def test_an_idle_thread_is_free(self, lock: SlotLock) -> None:
        assert await lock.admit("t", "r1") == SlotAnswer(SlotState.free)

    async def test_the_same_run_may_ask_again(self, lock: SlotLock) -> None:
        assert (await lock.admit("t", "r1")).state is SlotState.free
        assert (await lock.admit("t", "r1")).state is SlotState.free
        lock.bind("t", "r1", epoch=1, fence=1)
        assert (await lock.admit("t", "r1")).state is SlotState.free

    async def test_while_one_asks_another_hears_of_it(self, lock: SlotLock) -> None:
        await lock.admit("t", "r1")
        assert await lock.admit("t", "r2") == SlotAnswer(SlotState.reserving, "r1")

    async def test_of_many_at_once_one_is_told_free(self, lock: SlotLock) -> None:
        answers = await asyncio.gather(*(lock.admit("t", f"r{number}") for number in range(50)))
        states = [answer.state for answer in answers]
        assert states.count(SlotState.free) == 1
        assert states.count(SlotState.reserving) == 49

    async def test_a_bound_thread_is_busy_and_names_its_run(self, lock: SlotLock) -> None:
        await lock.admit("t", "r1")
        lock.bind("t", "r1", epoch=1, fence=1)
        assert await lock.admit("t", "r2") == SlotAnswer(SlotState.busy, "r1")
        assert (await lock.admit("other", "r2")).state is SlotState.free

    async def test_a_released_thread_is_free(self, lock: SlotLock) -> None:
        lock.bind("t", "r1", epoch=1, fence=1)
        lock.release("t", "r1", fence=1)
        assert (await lock.admit("t", "r2")).state is SlotState.free

    async def test_a_late_bind_cannot_go_back(self, lock: SlotLock) -> None:
        lock.bind("t", "r2", epoch=2, fence=10)
        lock.bind("t", "r1", epoch=1, fence=9)
        assert (await lock.admit("t", "r3")).holder == "r2"

    async def test_fences_are_compared_as_numbers(self, lock: SlotLock) -> None:
        lock.bind("t", "r1", epoch=1, fence=9)
        lock.bind("t", "r2", epoch=1, fence=10)
        assert (await lock.admit("t", "r3")).holder == "r2"

    async def test_a_late_release_frees_no_other_run(self, lock: SlotLock) -> None:
        lock.bind("t", "r2", epoch=1, fence=2)
        lock.release("t", "r1", fence=1)
        lock.release("t", "r1", fence=2)
        lock.release("t", "r2", fence=1)
        assert (await lock.admit("t", "r3")).holder == "r2"

    async def test_a_refused_admission_gives_its_reservation_back(self, lock: SlotLock) -> None:
        await lock.admit("t", "r1")
        lock.release("t", "r1", fence=0)
        assert (await lock.admit("t", "r2")).state is SlotState.free

    async def test_nobody_gives_back_the_reservation_of_another(self, lock: SlotLock) -> None:
        await lock.admit("t", "r1")
        lock.release("t", "r2", fence=0)
        assert await lock.admit("t", "r3") == SlotAnswer(SlotState.reserving, "r1")

    async def test_giving_back_a_reservation_leaves_the_slot(self, lock: SlotLock) -> None:
        lock.bind("t", "r1", epoch=1, fence=1)
        lock.release("t", "r1", fence=0)
        assert (await lock.admit("t", "r2")).holder == "r1"

    @pytest.mark.parametrize("odd", ODD_IDS, ids=ascii)
    async def test_the_holder_is_named_whatever_its_id(self, lock: SlotLock, odd: str) -> None:
        lock.bind("t", odd, epoch=1, fence=1)
        assert await lock.admit("t", "another") == SlotAnswer(SlotState.busy, odd)
