"""What a run's log has not taken is kept, within bounds, and appended in order when the log answers again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from coordinator.errors import StaleFence
from coordinator.event_log import BEGINNING, END, Appended, Entry, EventId
from coordinator.event_logs.local import LocalEventLog
from coordinator.events import sender as module
from coordinator.events.sender import Room, Sender
from coordinator.runs.jobs import Jobs
from stores.rows import Ownership
from tests.support.waiting import wait_until

OWN = Ownership("r", "t", 1, 3)
SOON = 5.0


class Outage(LocalEventLog):
    """A log whose link goes down and comes back. `silent`: numbers that it does not answer while it is up."""

    def __init__(self) -> None:
        super().__init__()
        self._up = asyncio.Event()
        self._up.set()
        self.silent: set[int] = set()
        self.stale = False
        self.sent: list[int] = []
        self.gate: asyncio.Event | None = None

    @property
    def away(self) -> bool:
        return not self._up.is_set()

    def down(self) -> None:
        self._up.clear()

    def up(self) -> None:
        self._up.set()

    async def returned(self) -> None:
        await self._up.wait()

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        self.sent.append(entry.id.number)
        if self.gate is not None:
            await self.gate.wait()
        if self.away or entry.id.number in self.silent:
            return Appended.lost
        return Appended.stale if self.stale else await super().append(thread_id, run_id, entry)

    async def numbers(self) -> list[int]:
        page = await self.read("t", "r", None, 10_000)
        assert page is not None
        return [event.id.number for event in page.events]


class Sending:
    """A sender, and what it has reported of each entry."""

    def __init__(self, log: Outage, jobs: Jobs, room: Room) -> None:
        self.over: dict[int, Appended] = {}
        self.sender = Sender(log, OWN, jobs=jobs, room=room, on_stale=self._stale, on_over=self._over)
        self.number = 0
        self.room = room

    async def emit(self, size: int = 1) -> None:
        await self.sender.send(self._next("custom", "x" * size), SOON)

    def close(self) -> None:
        self.sender.close(self._next(END, ""))

    def _next(self, mode: str, text: str) -> Entry:
        self.number += 1
        return Entry(EventId(3, self.number), mode, text, BEGINNING)

    async def _stale(self, entry: Entry) -> Appended:
        raise StaleFence("t", entry.id.fence)

    def _over(self, entry: Entry, appended: Appended) -> None:
        assert entry.id.number not in self.over
        self.over[entry.id.number] = appended

    @property
    def lost(self) -> list[int]:
        return [number for number, appended in self.over.items() if appended is not Appended.done]


@pytest.fixture
def log() -> Outage:
    return Outage()


@pytest.fixture
async def sending(log: Outage, no_task_left: None) -> AsyncGenerator[Sending]:
    jobs = Jobs()
    yield Sending(log, jobs, Room())
    await jobs.finished(within=0.1)


@pytest.mark.parametrize("outages", [1, 3])
async def test_outage_costs_no_event_and_no_order(log: Outage, sending: Sending, outages: int) -> None:
    for _ in range(outages):
        await sending.emit()
        log.down()
        for _ in range(50):
            await sending.emit()
        log.up()
        await sending.emit()
    assert await log.numbers() == list(range(1, sending.number + 1))
    assert sending.lost == []
    assert sending.room.left == module.MAX_TOTAL


async def test_closing_entry_follows_the_backlog(log: Outage, sending: Sending) -> None:
    log.down()
    await sending.emit()
    await sending.emit()
    sending.close()
    assert await log.numbers() == []
    log.up()
    await wait_until(lambda: len(sending.over) == 3, description="all are appended")
    assert await log.numbers() == [1, 2, 3]


async def test_log_that_is_away_when_a_run_ends_is_closed_later(log: Outage, sending: Sending) -> None:
    await sending.emit()
    log.down()
    sending.close()
    log.up()
    await wait_until(lambda: len(sending.over) == 2, description="closed")
    assert await log.numbers() == [1, 2]


@pytest.mark.parametrize(
    ("size", "kept"),
    [(1, module.MAX_ENTRIES), (100_000, module.MAX_BYTES // 100_400), (module.MAX_BYTES, 1)],
    ids=["by number", "by bytes", "the largest"],
)
async def test_backlog_is_bounded_and_drops_its_oldest(
    log: Outage, sending: Sending, size: int, kept: int
) -> None:
    log.down()
    for _ in range(300):
        await sending.emit(size)
    assert sending.lost == list(range(1, 301 - kept))
    log.up()
    await sending.emit()
    await wait_until(lambda: len(sending.over) == 301, description="all are decided")
    expected = [*range(301 - kept, 301), 301]
    assert (await log.numbers())[-kept:] == expected[-kept:]


async def test_backlogs_of_all_runs_are_bounded_together(log: Outage, no_task_left: None) -> None:
    jobs, room = Jobs(), Room(left=1000)
    one, other = Sending(log, jobs, room), Sending(log, jobs, room)
    log.down()
    await one.emit(300)
    await other.emit(300)
    assert (one.lost, other.lost) == ([], [1])
    one.sender.discard()
    assert room.left == 1000
    await jobs.finished(within=0.1)


async def test_event_of_a_cancelled_caller_is_not_lost(log: Outage, sending: Sending) -> None:
    log.gate = asyncio.Event()
    emitting = asyncio.create_task(sending.emit())
    await wait_until(lambda: log.sent, description="it is being sent")
    emitting.cancel()
    await asyncio.wait([emitting])
    log.gate.set()
    await sending.emit()
    assert await log.numbers() == [1, 2]


async def test_concurrent_events_keep_their_order_over_a_loss(log: Outage, sending: Sending) -> None:
    log.gate = asyncio.Event()
    emitting = [asyncio.create_task(sending.emit()) for _ in range(5)]
    await wait_until(lambda: log.sent, description="the first is being sent")
    log.down()
    log.gate.set()
    await asyncio.wait(emitting[:1])
    later = asyncio.create_task(sending.emit())
    log.up()
    await asyncio.wait([*emitting, later])
    assert await log.numbers() == [1, 2, 3, 4, 5, 6]
    assert sending.lost == []


async def test_event_that_the_log_never_answers_does_not_hold_up_the_others_for_ever(
    log: Outage, sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For instance one that is too large for the bandwidth and the budget."""
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_ATTEMPTS", 3)
    log.silent = {1}
    emitting = [asyncio.create_task(sending.emit()) for _ in range(3)]
    await asyncio.wait(emitting)
    await wait_until(lambda: len(sending.over) == 3, description="all are decided")
    assert sending.lost == [1]
    assert await log.numbers() == [2, 3]
    assert log.sent.count(1) == 4


async def test_run_that_lost_its_thread_during_the_outage_may_not_emit(log: Outage, sending: Sending) -> None:
    log.down()
    await sending.emit()
    log.stale = True
    log.up()
    await wait_until(lambda: sending.over, description="the store has refused the event")
    with pytest.raises(StaleFence):
        await sending.emit()
    assert await log.numbers() == []
