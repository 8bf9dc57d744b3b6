"""Pending writes are repeated until the store accepts them, and not after it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable

import pytest

from stores.errors import ConnectionsBusy, RowLocked, StoreFull, StoreUnavailable
from stores.outbox import REFUSALS, Outbox
from tests.support.waiting import wait_until


async def test_closed_outbox_accepts_no_pending_write() -> None:
    """A write that fails after the close would be repeated for ever, because no task would end it."""
    outbox, before = Outbox(), asyncio.all_tasks()
    await outbox.aclose()

    async def write() -> None:
        raise OSError("closed")

    outbox.enqueue("the model name", write)
    assert len(outbox) == 0
    assert asyncio.all_tasks() == before


async def test_closing_waits_for_writes_in_progress_and_then_writes_pending_ones(outbox: Outbox) -> None:
    disk, may_end, order = Disk(), asyncio.Event(), list[str]()

    async def long() -> None:
        await may_end.wait()
        order.append("long")

    under_way = outbox.post(long())
    disk.away = True
    pending = deliver(outbox, disk, "pending")
    await wait_until(lambda: len(outbox) == 1, description="the write is pending")
    closing = asyncio.create_task(outbox.aclose())
    await asyncio.sleep(0)  # from here on nothing but the close repeats the write
    disk.away = False
    may_end.set()
    await closing
    assert under_way.done()
    assert await pending == "pending"


# -- writes that the store refuses, although it is available: no room, or a locked row


class Disk:
    """What is written, in its order; a write is refused while its name is in `too_big` or `locked`. A locked
    row takes its time: `waits` is set, and the refusal comes with `give_up`."""

    def __init__(self, *too_big: str, locked: str | None = None, busy: bool = False) -> None:
        self.too_big, self.locked, self.busy, self.away = set(too_big), locked, busy, False
        self.written: list[str] = []
        self.refused, self.waits, self.give_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def write(self, name: str) -> str:
        if self.away:
            raise StoreUnavailable("it is away")
        if name == self.locked:
            self.waits.set()
            await self.give_up.wait()
            raise ConnectionsBusy("others wait") if self.busy else RowLocked("a row is locked")
        if name in self.too_big:
            self.refused.set()
            raise StoreFull("the disk is full")
        self.written.append(name)
        return name


@pytest.fixture
async def outbox() -> AsyncGenerator[Outbox]:
    made = Outbox()
    yield made
    await made.aclose(0)


def deliver(outbox: Outbox, disk: Disk, name: str, run: str | None = None) -> asyncio.Task[str]:
    return asyncio.create_task(outbox.deliver(run or name, 1, f"the {name}", lambda: disk.write(name)))


async def test_write_without_disk_space_does_not_block_other_runs(outbox: Outbox) -> None:
    disk = Disk("big")
    big = deliver(outbox, disk, "big")
    await disk.refused.wait()
    assert (
        await outbox.deliver("small", 1, "the small", lambda: disk.write("small"), patient=False) == "small"
    )
    assert len(outbox) == 1
    disk.too_big.clear()
    assert await big == "big"


async def test_writes_without_disk_space_do_not_block_later_pending_writes(outbox: Outbox) -> None:
    """More of them than a round tries in a row."""
    big = [f"big{at}" for at in range(REFUSALS + 2)]
    disk = Disk(*big)
    disk.away = True
    waiting = [deliver(outbox, disk, name) for name in [*big, "small", "smaller"]]
    await wait_until(lambda: len(outbox) == len(waiting), description="all writes are pending")
    disk.away = False
    assert await asyncio.gather(*waiting[-2:]) == ["small", "smaller"]
    assert len(outbox) == len(big)
    disk.too_big.clear()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("busy", [False, True], ids=["locked", "others-wait-for-rows"])
async def test_write_of_a_locked_row_does_not_block_other_runs(outbox: Outbox, busy: bool) -> None:
    """Neither new writes of them nor pending ones, of an outage while it waits for its row. Nor does one for
    which all connections are busy with calls that wait for rows."""
    disk = Disk(locked="held", busy=busy)
    disk.give_up.set()
    held = deliver(outbox, disk, "held")
    await wait_until(lambda: len(outbox) == 1, description="its write is pending")
    new = outbox.deliver("new", 1, "the new", lambda: disk.write("new"), patient=False)
    assert await new == "new"
    disk.away = True
    waiting = [deliver(outbox, disk, f"run{at}") for at in range(3)]
    await wait_until(lambda: len(outbox) == 4, description="all writes are pending")
    disk.waits.clear()
    disk.away = False
    assert await asyncio.gather(*waiting) == ["run0", "run1", "run2"]
    await disk.waits.wait()
    disk.locked = None
    assert await held == "held"


async def test_writes_of_other_runs_are_sent_beside_one_that_waits_for_its_row(outbox: Outbox) -> None:
    disk = Disk(locked="held")
    held = deliver(outbox, disk, "held")
    await disk.waits.wait()
    disk.away = True
    waiting = [deliver(outbox, disk, f"run{at}") for at in range(3)]
    await wait_until(lambda: len(outbox) == 3, description="the others are pending")
    disk.give_up.set()
    await wait_until(lambda: len(outbox) == 4, description="all writes are pending")
    disk.waits.clear()
    disk.give_up.clear()
    disk.away = False
    assert await asyncio.gather(*waiting) == ["run0", "run1", "run2"]
    disk.locked = None
    disk.give_up.set()
    assert await held == "held"


@pytest.mark.parametrize("why", ["no room", "locked row"])
async def test_later_write_of_the_same_run_keeps_its_order(outbox: Outbox, why: str) -> None:
    disk = Disk("first") if why == "no room" else Disk(locked="first")
    disk.give_up.set()
    first = deliver(outbox, disk, "first", "run")
    await wait_until(lambda: len(outbox) == 1, description="the first write is pending")
    second = deliver(outbox, disk, "second", "run")
    await outbox.deliver("other", 1, "the other", lambda: disk.write("other"))
    await wait_until(lambda: len(outbox) == 2, description="both writes are pending")
    disk.too_big.clear()
    disk.locked = None
    await asyncio.gather(first, second)
    assert disk.written == ["other", "first", "second"]


async def test_write_of_cancelled_caller_does_not_block_later_pending_writes(
    outbox: Outbox,
) -> None:
    disk = Disk()
    disk.away = True
    cancelled = deliver(outbox, disk, "cancelled")
    await wait_until(lambda: len(outbox) == 1, description="the first write is pending")
    behind = deliver(outbox, disk, "behind")
    await wait_until(lambda: len(outbox) == 2, description="the second write is pending")
    cancelled.cancel()
    disk.away = False
    async with asyncio.timeout(10):
        assert await behind == "behind"
    assert disk.written == ["behind"]
    assert len(outbox) == 0


async def test_replacement_is_written_once_the_store_accepts_it(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.outbox.GIVE_UP_AFTER", 0.0)
    disk = Disk("result", "error")
    tries: list[str] = []

    def instead(error: StoreFull) -> Awaitable[str]:
        tries.append(error.what)
        return disk.write("error")

    end = asyncio.create_task(
        outbox.deliver("run", 1, "the end", lambda: disk.write("result"), instead=instead)
    )
    await wait_until(lambda: tries, description="the other is tried")
    assert disk.written == []
    assert len(outbox) == 1, "there was no room for that either: nothing is given up"
    disk.too_big.discard("error")
    assert await end == "error"
    assert tries[-1] == "the disk is full"
    assert len(outbox) == 0


async def test_room_for_a_write_whose_replacement_was_refused_is_used_for_the_write(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.outbox.GIVE_UP_AFTER", 0.0)
    disk, replaced = Disk("result", "error"), asyncio.Event()

    def instead(error: StoreFull) -> Awaitable[str]:
        del error
        replaced.set()
        return disk.write("error")

    end = asyncio.create_task(
        outbox.deliver("run", 1, "the end", lambda: disk.write("result"), instead=instead)
    )
    await replaced.wait()
    disk.too_big.clear()
    assert await end == "result"


async def test_best_effort_write_without_disk_space_is_dropped_and_its_run_ends(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stores.outbox.GIVE_UP_AFTER", 0.0)
    disk = Disk("progress")
    await outbox.offer("run", 1, "the progress", lambda: disk.write("progress"))
    assert await deliver(outbox, disk, "end", "run") == "end"
    assert disk.written == ["end"]
    assert "There was no disk space for the progress of run 'run'" in caplog.text


async def test_age_of_the_oldest_pending_write(outbox: Outbox) -> None:
    assert outbox.oldest is None
    disk = Disk("big")
    big = deliver(outbox, disk, "big")
    await wait_until(lambda: (outbox.oldest or 0) > 0.05, description="it grows older")
    disk.too_big.clear()
    await big
    assert outbox.oldest is None
