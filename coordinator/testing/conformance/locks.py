"""Conformance checks of slot locks; those of REMEMBERING_SLOT_LOCK need a lock that keeps slots."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.lock import SlotAnswer, SlotLock, SlotState
from coordinator.notifier import Notifier
from coordinator.testing.conformance.suite import Check, checks_for, checks_of

ODD_IDS = ["", "x" * 300, "é ü", "{t:x}", "a*b?[c]", "\0", "\ud800", "bf", "r"]


class Slot(NamedTuple):
    """`notifier` receives the signals of the lock."""

    lock: SlotLock
    notifier: Notifier


async def every_id_is_accepted(slot: Slot, odd: str) -> None:
    answer = await slot.lock.admit(odd, odd)
    assert answer.state in {SlotState.free, SlotState.unknown}
    slot.lock.bind(odd, odd, fence=1)
    slot.lock.release(odd, odd, fence=1)


async def release_wakes_watchers_of_the_thread(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup:
        slot.lock.bind("t", "r1", fence=1)
        slot.lock.release("t", "r1", fence=1)
        assert await wakeup.wait(5)


async def release_wakes_watchers_if_the_slot_is_missing(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup:
        slot.lock.release("t", "r1", fence=1)
        assert await wakeup.wait(5)


async def release_wakes_watchers_whatever_the_ids(slot: Slot, odd: str) -> None:
    async with slot.notifier.watch(odd) as wakeup:
        slot.lock.release(odd, odd, fence=1)
        assert await wakeup.wait(5)


async def release_without_a_fence_wakes_no_watcher(slot: Slot) -> None:
    async with slot.notifier.watch("t") as wakeup, slot.notifier.watch("later") as later:
        slot.lock.release("t", "r1", fence=0)
        slot.lock.release("later", "r1", fence=1)
        assert await later.wait(5)
        assert not await wakeup.wait(0)


async def second_release_has_no_effect(slot: Slot) -> None:
    slot.lock.bind("t", "r1", fence=1)
    slot.lock.release("t", "r1", fence=1)
    slot.lock.release("t", "r1", fence=1)
    assert (await slot.lock.admit("t", "r2")).state in {SlotState.free, SlotState.unknown}


SLOT_LOCK: tuple[Check[Slot], ...] = (
    *checks_of(
        release_wakes_watchers_of_the_thread,
        release_wakes_watchers_if_the_slot_is_missing,
        release_without_a_fence_wakes_no_watcher,
        second_release_has_no_effect,
    ),
    *checks_for(ODD_IDS, every_id_is_accepted, release_wakes_watchers_whatever_the_ids),
)
"""Checks for every adapter."""


async def idle_thread_is_free(lock: SlotLock) -> None:
    assert await lock.admit("t", "r1") == SlotAnswer(SlotState.free)


async def admit_is_idempotent_for_one_run(lock: SlotLock) -> None:
    assert (await lock.admit("t", "r1")).state is SlotState.free
    assert (await lock.admit("t", "r1")).state is SlotState.free
    lock.bind("t", "r1", fence=1)
    assert (await lock.admit("t", "r1")).state is SlotState.free


async def admit_reserves_nothing(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    assert (await lock.admit("t", "r2")).state is SlotState.free


async def bound_thread_is_busy_and_names_its_run(lock: SlotLock) -> None:
    await lock.admit("t", "r1")
    lock.bind("t", "r1", fence=1)
    assert await lock.admit("t", "r2") == SlotAnswer(SlotState.busy, "r1")
    assert (await lock.admit("other", "r2")).state is SlotState.free


async def released_thread_is_free(lock: SlotLock) -> None:
    lock.bind("t", "r1", fence=1)
    lock.release("t", "r1", fence=1)
    assert (await lock.admit("t", "r2")).state is SlotState.free


async def newest_bind_names_the_holder(lock: SlotLock) -> None:
    lock.bind("t", "r1", fence=9)
    lock.bind("t", "r2", fence=10)
    assert (await lock.admit("t", "r3")).holder == "r2"


async def late_bind_ends_with_the_next_release(lock: SlotLock) -> None:
    lock.bind("t", "r2", fence=10)
    lock.bind("t", "r1", fence=9)
    lock.release("t", "r2", fence=10)
    assert (await lock.admit("t", "r3")).state is SlotState.free


async def late_release_does_not_free_another_run(lock: SlotLock) -> None:
    lock.bind("t", "r2", fence=10)
    lock.release("t", "r1", fence=9)
    assert (await lock.admit("t", "r3")).holder == "r2"


async def release_without_a_fence_keeps_the_slot(lock: SlotLock) -> None:
    lock.bind("t", "r1", fence=1)
    lock.release("t", "r1", fence=0)
    assert (await lock.admit("t", "r2")).holder == "r1"


async def holder_is_named_whatever_its_id(lock: SlotLock, odd: str) -> None:
    lock.bind("t", odd, fence=1)
    assert await lock.admit("t", "another") == SlotAnswer(SlotState.busy, odd)


REMEMBERING_SLOT_LOCK: tuple[Check[SlotLock], ...] = (
    *checks_of(
        idle_thread_is_free,
        admit_is_idempotent_for_one_run,
        admit_reserves_nothing,
        bound_thread_is_busy_and_names_its_run,
        released_thread_is_free,
        newest_bind_names_the_holder,
        late_bind_ends_with_the_next_release,
        late_release_does_not_free_another_run,
        release_without_a_fence_keeps_the_slot,
    ),
    *checks_for(ODD_IDS, holder_is_named_whatever_its_id),
)
"""Checks for adapters that keep slots."""
