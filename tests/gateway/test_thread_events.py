"""The order of a thread's events: places, what a subscription includes, and what is missing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from coordinator import Interrupt, InvalidArgument, Outcome, RunContext, RunManager, Settings
from coordinator.gateway.protocol.channels import Address, address_of, subscription
from coordinator.gateway.protocol.events import Missing
from coordinator.gateway.protocol.places import (
    BEGIN,
    END,
    MOST_INTERRUPTS,
    Place,
    seq_of_event,
    seq_of_interrupt,
)
from coordinator.gateway.protocol.thread_events import Item, ThreadEvents

ALL = subscription(["custom", "lifecycle", "values"], None, None)
EXACT_IN_JAVASCRIPT = 2**53


def test_places_are_ordered_as_the_thread_is() -> None:
    def of(fence: int) -> list[int]:
        interrupts = [seq_of_interrupt(fence, index) for index in range(MOST_INTERRUPTS)]
        events = [seq_of_event(fence, number) for number in (1, 2, 10_000)]
        return [Place(fence, BEGIN).seq, *events, *interrupts, Place(fence, END).seq]

    seqs = [*of(1), *of(2), *of(2**24 - 1)]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] < EXACT_IN_JAVASCRIPT
    assert [Place.of(seq).seq for seq in seqs] == seqs
    assert Place.of(seq_of_event(7, 3)) == (7, 3)
    with pytest.raises(InvalidArgument, match="since"):
        Place.of(2**62)


def test_more_events_than_a_place_has_room_for_stay_before_the_end() -> None:
    assert seq_of_event(1, 2**40) < seq_of_interrupt(1, 0)
    assert seq_of_interrupt(1, 50) < Place(1, END).seq


@pytest.mark.parametrize(
    ("mode", "address"),
    [
        ("values", Address("values", None, ())),
        ("updates|a:1|b:2", Address("updates", None, ("a:1", "b:2"))),
        ("progress|a:1", Address("custom", "progress", ("a:1",))),
        ("custom:progress", Address("custom", "progress", ())),
        ("omitted", Address("custom", "omitted", ())),
        ("messages/partial", None),
        ("debug", None),
    ],
)
def test_mode_of_an_event_is_its_address(mode: str, address: Address | None) -> None:
    assert address_of(mode) == address


NAMESPACES: list[tuple[Any, int | None, bool]] = [
    (None, None, True),
    ([], None, True),
    ([["a"]], None, True),
    ([["a:1"]], 1, True),
    ([["a:1"]], 0, False),
    ([["a:2"]], None, False),
    ([["b"], []], 2, True),
    ([[]], 1, False),
    ([["a", "b", "c"]], None, False),
]


@pytest.mark.parametrize(("namespaces", "depth", "included"), NAMESPACES)
def test_namespaces_are_prefixes(namespaces: Any, depth: int | None, included: bool) -> None:
    address = Address("values", None, ("a:1", "b:2"))
    assert subscription(["values"], namespaces, depth).includes(address) is included


def test_named_custom_events_belong_to_custom() -> None:
    named, other = Address("custom", "a", ()), Address("custom", None, ())
    assert [subscription(["custom"], None, None).includes(one) for one in (named, other)] == [True, True]
    assert [subscription(["custom:a"], None, None).includes(one) for one in (named, other)] == [True, False]
    omitted = Address("custom", "omitted", ())
    assert subscription(["values"], None, None).includes(omitted), "in place of any event"


async def read(manager: RunManager, since: int | None = None) -> list[Item]:
    async with ThreadEvents(manager, "t", ALL, user_id=None, since=since) as events:
        items: list[Item] = []
        while batch := await events.batch(0.7):
            items += batch
        return items


async def test_client_that_lost_events_gets_a_gap_and_the_rest() -> None:
    """One that comes for the first time gets what is kept, without a gap."""

    async def talks(ctx: RunContext) -> None:
        for number in range(100):
            await ctx.emit("custom", number)

    async with RunManager(settings=Settings(event_log_max=32)) as manager:
        record = await manager.create_or_reject("t")
        manager.launch(record, talks)
        await manager.wait(record.run_id)
        kept = await read(manager)
        assert not any(isinstance(item, Missing) for item in kept)
        assert 20 < len(kept) < 60
        first, *rest = await read(manager, seq_of_event(1, 5))
        assert first == Missing(seq_of_event(1, 5))
        assert [item.seq for item in rest] == [item.seq for item in kept[1:]]
        late = [item.seq for item in kept[-3:]]
        assert [item.seq for item in await read(manager, late[0])] == late[1:]
        assert await read(manager, late[-1]) == []


async def test_run_without_events_has_its_begin_and_its_end() -> None:
    async def silent(ctx: RunContext) -> None:
        """Emits nothing."""

    async with RunManager() as manager:
        for _ in range(2):
            record = await manager.create_or_reject("t")
            manager.launch(record, silent)
            await manager.wait(record.run_id)
        items = await read(manager)
        assert [item.seq for item in items] == [
            Place(1, BEGIN).seq,
            Place(1, END).seq,
            Place(2, BEGIN).seq,
            Place(2, END).seq,
        ]


# -- places that the thread has not reached


async def silent_run(manager: RunManager) -> None:
    async def silent(ctx: RunContext) -> None:
        """Emits nothing."""

    record = await manager.create_or_reject("t")
    manager.launch(record, silent)
    await manager.wait(record.run_id)


@pytest.mark.parametrize("number", [BEGIN, 3, END])
async def test_place_beyond_the_newest_run_gets_the_newest_place_and_what_comes(number: int) -> None:
    beyond = Place(9, number).seq
    async with RunManager() as manager:
        await silent_run(manager)
        await silent_run(manager)
        async with ThreadEvents(manager, "t", ALL, user_id=None, since=beyond) as events:
            [missing] = await events.batch(20)
            assert missing == Missing(beyond, Place(2, END).seq)
            assert isinstance(missing, Missing)
            body = json.loads(missing.body)
            assert (body["error"], body["since"], body["newest"]) == ("resume_gap", beyond, missing.newest)
            await silent_run(manager)
            items = list[Item]()
            while len(items) < 2:
                items += await events.batch(20)
            assert [item.seq for item in items] == [Place(3, BEGIN).seq, Place(3, END).seq]


async def test_place_in_a_thread_without_runs_gets_the_beginning() -> None:
    async with RunManager() as manager:
        await manager.threads.create("t")
        beyond = Place(1, 1).seq
        assert await read(manager, beyond) == [Missing(beyond, 0)]
        assert await read(manager, 5) == [], "it is before the first run"


@pytest.mark.parametrize("place", [Place(1, 50), Place(1, END), Place(2, 1)], ids=str)
async def test_place_beyond_a_run_in_flight_gets_its_newest_place_and_what_comes(place: Place) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def talks(ctx: RunContext) -> None:
        for number in range(3):
            await ctx.emit("custom", number)
        begun.set()
        await go_on.wait()
        await ctx.emit("custom", "new")

    async with RunManager() as manager:
        record = await manager.create_or_reject("t")
        manager.launch(record, talks)
        await begun.wait()
        async with ThreadEvents(manager, "t", ALL, user_id=None, since=place.seq) as events:
            [missing] = await events.batch(20)
            assert isinstance(missing, Missing)
            newest = Place(1, 3 if place == (1, 50) else BEGIN).seq
            assert (missing.seq, missing.newest) == (place.seq, newest)
            go_on.set()
            seqs = list[int]()
            while Place(1, END).seq not in seqs:
                seqs += [item.seq for item in await events.batch(20)]
            assert seqs[0] == newest + 1
            assert seqs[-2:] == [seq_of_event(1, 4), Place(1, END).seq]


async def test_place_of_an_interrupt_leads_to_the_end_without_a_gap() -> None:
    """The interrupts of a function are in its row, not in its log."""

    async def pauses(ctx: RunContext) -> Outcome:
        await ctx.emit("custom", 1)
        return Outcome(None, paused=True, interrupts=(Interrupt("sure?", "i"),))

    async with RunManager() as manager:
        record = await manager.create_or_reject("t")
        manager.launch(record, pauses)
        await manager.wait(record.run_id)
        channels = subscription(["input", "lifecycle"], None, None)
        async with ThreadEvents(manager, "t", channels, user_id=None, since=seq_of_interrupt(1, 0)) as events:
            assert [item.seq for item in await events.batch(20)] == [Place(1, END).seq]


async def test_place_in_a_thread_that_was_removed_is_no_gap() -> None:
    """Its fences go on where they were."""
    async with (
        RunManager() as manager,
        ThreadEvents(manager, "t", ALL, user_id=None, since=Place(3, 1).seq, may_be_new=True) as events,
    ):
        assert await events.batch(0) == []
