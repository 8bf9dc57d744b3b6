"""What every slot lock does, and what one does that has a memory."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from coordinator.lock import SlotAnswer, SlotLock, SlotState
from coordinator.notifier import Notifier
from coordinator.testing.conformance.suite import Check, checks_for, checks_of

ODD_IDS = ["", "x" * 300, "é ü", "{t:x}", "a*b?[c]", "\0", "\ud800", "bf", "r"]


class Slot(NamedTuple):
    """`notifier` hears the lock."""

    lock: SlotLock
    notifier: Notifier


async def any_id_will_do(slot: Slot, odd: str) -> None:
    answer = await slot.lock.admit(odd, odd)
    assert answer.state in {SlotState.free, SlotState.unknown}
    slot.lock.bind(odd, odd, epoch=1, fence=1)
    slot.lock.release(odd, odd, fence=1)


async def releasing_wakes_who_watches_the_thread(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup:
        slot.lock.bind("t", "r1", epoch=1, fence=1)
        slot.lock.release("t", "r1", fence=1)
        assert await wakeup.wait(5)


async def it_wakes_them_though_the_slot_is_gone(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup:
        slot.lock.release("t", "r1", fence=1)
        assert await wakeup.wait(5)


async def it_wakes_them_whatever_the_ids(slot: Slot, odd: str) -> None:
    async with slot.notifier.watch(odd) as wakeup:
        slot.lock.release(odd, odd, fence=1)
        assert await wakeup.wait(5)


async def giving_a_reservation_back_wakes_nobody(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup, slot.notifier.watch("later") as later:
        slot.lock.release("t", "r1", fence=0)
        slot.lock.release("later", "r1", fence=1)
        assert await later.wait(5)
        assert not await wakeup.wait(0)


async def releasing_twice_does_no_harm(slot: Slot) -> None:
    slot.lock.bind("t", "r1", epoch=1, fence=1)
    slot.lock.release("t", "r1", fence=1)
    slot.lock.release("t", "r1", fence=1)
    assert (await slot.lock.admit("t", "r2")).state in {SlotState.free, SlotState.unknown}


SLOT_LOCK: tuple[Check[Slot], ...] = (
    *checks_of(
        releasing_wakes_who_watches_the_thread,
        it_wakes_them_though_the_slot_is_gone,
        giving_a_reservation_back_wakes_nobody,
        releasing_twice_does_no_harm,
    ),
    *checks_for(ODD_IDS, any_id_will_do, it_wakes_them_whatever_the_ids),
)
"""Of every adapter."""


async def an_idle_thread_is_free(lock: SlotLock) -> None:
    assert await lock.admit("t", "r1") == SlotAnswer(SlotState.free)


async def the_same_run_may_ask_again(lock: SlotLock) -> None:
    assert (await lock.admit("t", "r1")).state is SlotState.free
    assert (await lock.admit("t", "r1")).state is SlotState.free
    lock.bind("t", "r1", epoch=1, fence=1)
    assert (await lock.admit("t", "r1")).state is SlotState.free


async def while_one_asks_another_hears_of_it(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    assert await lock.admit("t", "r2") == SlotAnswer(SlotState.reserving, "r1")


async def of_many_at_once_one_is_told_free(lock: SlotLock) -> None:
    answers = await asyncio.gather(*(lock.admit("t", f"r{number}") for number in range(50)))
    states = [answer.state for answer in answers]
    assert states.count(SlotState.free) == 1
    assert states.count(SlotState.reserving) == 49


async def a_bound_thread_is_busy_and_names_its_run(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    lock.bind("t", "r1", epoch=1, fence=1)
    assert await lock.admit("t", "r2") == SlotAnswer(SlotState.busy, "r1")
    assert (await lock.admit("other", "r2")).state is SlotState.free


async def a_released_thread_is_free(lock: SlotLock) -> None:
    lock.bind("t", "r1", epoch=1, fence=1)
    lock.release("t", "r1", fence=1)
    assert (await lock.admit("t", "r2")).state is SlotState.free


async def a_late_bind_cannot_go_back(lock: SlotLock) -> None:
    lock.bind("t", "r2", epoch=2, fence=10)
    lock.bind("t", "r1", epoch=1, fence=9)
    assert (await lock.admit("t", "r3")).holder == "r2"


async def fences_are_compared_as_numbers(lock: SlotLock) -> None:
    lock.bind("t", "r1", epoch=1, fence=9)
    lock.bind("t", "r2", epoch=1, fence=10)
    assert (await lock.admit("t", "r3")).holder == "r2"


async def a_late_release_frees_no_other_run(lock: SlotLock) -> None:
    lock.bind("t", "r2", epoch=1, fence=2)
    lock.release("t", "r1", fence=1)
    lock.release("t", "r1", fence=2)
    lock.release("t", "r2", fence=1)
    assert (await lock.admit("t", "r3")).holder == "r2"


async def a_refused_admission_gives_its_reservation_back(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    lock.release("t", "r1", fence=0)
    assert (await lock.admit("t", "r2")).state is SlotState.free


async def nobody_gives_back_the_reservation_of_another(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    lock.release("t", "r2", fence=0)
    assert await lock.admit("t", "r3") == SlotAnswer(SlotState.reserving, "r1")


async def giving_back_a_reservation_leaves_the_slot(lock: SlotLock) -> None:
    lock.bind("t", "r1", epoch=1, fence=1)
    lock.release("t", "r1", fence=0)
    assert (await lock.admit("t", "r2")).holder == "r1"


async def the_holder_is_named_whatever_its_id(lock: SlotLock, odd: str) -> None:
    lock.bind("t", odd, epoch=1, fence=1)
    assert await lock.admit("t", "another") == SlotAnswer(SlotState.busy, odd)


REMEMBERING_SLOT_LOCK: tuple[Check[SlotLock], ...] = (
    *checks_of(
        an_idle_thread_is_free,
        the_same_run_may_ask_again,
        while_one_asks_another_hears_of_it,
        of_many_at_once_one_is_told_free,
        a_bound_thread_is_busy_and_names_its_run,
        a_released_thread_is_free,
        a_late_bind_cannot_go_back,
        fences_are_compared_as_numbers,
        a_late_release_frees_no_other_run,
        a_refused_admission_gives_its_reservation_back,
        nobody_gives_back_the_reservation_of_another,
        giving_back_a_reservation_leaves_the_slot,
    ),
    *checks_for(ODD_IDS, the_holder_is_named_whatever_its_id),
)
"""Of adapters that know the slot."""
