"""The parts that streams are made of: numbers, bounds, what follows what, shared reads."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import CoordinatorError, InvalidArgument, StaleFence, StoreUnavailable
from coordinator.event_log import BEGINNING, END, TAIL, Appended, Entry, Event, EventId, EventLog, Gap, Page
from coordinator.event_logs.local import LocalEventLog
from coordinator.events.cursor import Cursor
from coordinator.events.ending import Ending
from coordinator.events.pages import Pages
from coordinator.events.standing import Settled
from coordinator.events.window import Window
from coordinator.events.writer import EventWriter, Holds
from coordinator.notifiers.local import LocalNotifier
from coordinator.notifiers.wakeups import ThreadWatchers, WakeupEvent
from coordinator.redis.messages import read_event, read_hint
from coordinator.redis.published import MAX_EVENTS, PublishedEvents
from coordinator.runs.jobs import Jobs
from coordinator.schemas import RunStatus
from coordinator.settings import Settings
from stores.rows import Ownership
from tests.support.inside import parts_of
from tests.support.waiting import wait_until


def page(*ids: str, closed: bool = False) -> Page:
    events = [Event(EventId.parse(text), "custom", "1") for text in ids]
    if closed:
        events.append(Event(events[-1].id.next, END, ""))
    return Page(tuple(events), None)


def shown(cursor: Cursor, *pages: Page) -> list[str]:
    """Events by id, gaps as `after..before`."""
    items = [item for read in pages for item in cursor.advance(read)]
    return [f"{item.after}..{item.before}" if isinstance(item, Gap) else str(item.id) for item in items]


# ---- what follows what ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "read", "expected"),
    [
        (None, page("1-1", "1-2"), ["1-1", "1-2"]),
        (None, page("7-1"), ["7-1"]),
        (None, page("1-3"), ["None..1-3", "1-3"]),
        ("1-2", page("1-3"), ["1-3"]),
        ("1-2", page("1-5", "1-6", "1-9"), ["1-2..1-5", "1-5", "1-6", "1-6..1-9", "1-9"]),
        ("1-2", page("2-1"), ["1-2..2-1", "2-1"]),
        ("1-2", page("1-3", "2-1", closed=False), ["1-3", "1-3..2-1", "2-1"]),
    ],
)
def test_missing_numbers_become_gaps(after: str | None, read: Page, expected: list[str]) -> None:
    cursor = Cursor(None if after is None else EventId.parse(after))
    assert shown(cursor, read) == expected
    assert cursor.complete == (not any(".." in item for item in expected))


def test_a_take_over_misses_nothing_where_the_older_fence_was_closed() -> None:
    cursor = Cursor(None)
    assert shown(cursor, page("1-1", "1-2", closed=True), page("2-1")) == ["1-1", "1-2", "2-1"]
    assert cursor.complete


def test_closing_entry_reveals_missing_tail() -> None:
    cursor = Cursor(EventId(1, 2))
    closing = Page((Event(EventId(1, 6), END, ""),), None)
    assert shown(cursor, closing) == ["1-2..None"]
    assert (cursor.closed, cursor.complete, cursor.last_id) == (True, False, "1-2")


def test_reader_of_the_tail_may_begin_anywhere() -> None:
    cursor = Cursor(TAIL)
    assert shown(cursor, Page((), None), page("4-17", "4-18")) == ["4-17", "4-18"]
    assert cursor.complete


# ---- the end -------------------------------------------------------------------------------------------

READ = page("3-1", "3-2"), page("3-1", "3-2", closed=True)
SETTLED = Settled(RunStatus.success, None, None, started=True, at=0)


@pytest.mark.parametrize(
    ("after", "read", "end", "proven", "due"),
    [
        (None, READ[1], EventId(3, 3), True, True),
        (None, READ[0], EventId(3, 3), False, True),
        (None, READ[1], EventId(4, 1), False, True),
        (None, None, EventId(3, 3), False, True),
        (TAIL, None, EventId(3, 3), False, True),
        (TAIL, Page((), EventId(3, 3)), EventId(3, 3), True, True),
        (EventId(9, 50), None, EventId(3, 3), False, False),
        (None, None, EventId(3, 0), True, False),
        (TAIL, None, EventId(3, 0), True, False),
        (EventId(3, 1), None, EventId(3, 0), False, False),
        (None, READ[1], None, True, False),
        (None, READ[0], None, False, False),
        (None, Page((), None), None, False, False),
        (None, None, None, False, False),
    ],
)
def test_end_of_a_log_is_proven_by_its_number_or_by_the_entry_that_closes_it(
    after: EventId | None, read: Page | None, end: EventId | None, proven: bool, due: bool
) -> None:
    cursor = Cursor(after)
    if read is not None:
        cursor.advance(read)
    ending, settled = Ending(cursor, 0), SETTLED._replace(log_end=end)
    assert (ending.is_proven(settled, read), ending.is_due(settled)) == (proven, due)


def test_end_of_a_log_is_unproven_before_the_last_attempt_and_proven_for_a_run_that_never_started() -> None:
    cursor = Cursor(None)
    assert Ending(cursor, 0).is_proven(SETTLED._replace(started=False), Page((), None))
    cursor.advance(READ[1])
    assert not Ending(cursor, 0).is_proven(SETTLED._replace(fence=4), None)


# ---- how much is kept ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 500), min_size=1, max_size=300), st.integers(1, 100), st.integers(1, 5_000))
def test_a_window_keeps_what_its_bounds_allow(sizes: list[int], max_events: int, max_bytes: int) -> None:
    window = Window(max_events, max_bytes)
    floor = 1
    for number, size in enumerate(sizes, 1):
        before, floor = floor, window.add(number, size)
        assert before <= floor <= number
        kept = sizes[floor - 1 : number]
        assert len(kept) <= max_events
        assert sum(kept) <= max_bytes or len(kept) == 1 or floor == number or _is_one_part(window)
    assert len(parts_of(window)) <= 40


def _is_one_part(window: Window) -> bool:
    """What was appended together goes together: then it is the newest part alone that is too large."""
    return len(parts_of(window)) == 1


# ---- the writer ----------------------------------------------------------------------------------------

OWN = Ownership("r", "t", 1, 3)


async def always(own: Ownership) -> bool:
    del own
    return True


def writer_to(log: EventLog, holds: Holds = always) -> EventWriter:
    return EventWriter(log, LocalNotifier(), Settings(), holds=holds, jobs=Jobs())


class Unreliable(LocalEventLog):
    """Loses what `answers` names."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Appended] = []

    async def append(self, thread_id: str, run_id: str, entry: Entry) -> Appended:
        if self.answers and (answer := self.answers.pop(0)) is not Appended.done:
            return answer
        return await super().append(thread_id, run_id, entry)


async def test_the_number_of_an_event_that_is_never_taken_is_used_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Unreliable()
    writer = writer_to(log)
    log.answers = [Appended.done, Appended.refused, Appended.late, Appended.done]
    for number in range(4):
        await writer.append(OWN, "custom", str(number))
    writer.close(OWN)
    page_read = await log.read("t", "r", None, 10)
    assert page_read is not None
    assert [str(event.id) for event in page_read.events] == ["3-1", "3-4", "3-5"]
    assert writer.lost == 2
    assert len(caplog.records) == 1, "logged once, not for every event"


async def test_events_that_are_lost_after_others_were_appended_are_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Unreliable()
    writer = writer_to(log)
    log.answers = [Appended.refused, Appended.done, Appended.late]
    for number in range(3):
        await writer.append(OWN, "custom", str(number))
    assert ["the log refuses them" in caplog.text, "they arrived out of order" in caplog.text] == [True, True]
    assert len(caplog.records) == 2


async def test_each_fence_counts_from_one() -> None:
    log = LocalEventLog()
    writer = writer_to(log)
    await writer.append(OWN, "custom", "1")
    await writer.append(OWN._replace(fence=4), "custom", "2")
    writer.close(OWN)  # the older one is over already
    page_read = await log.read("t", "r", None, 10)
    assert page_read is not None
    assert [str(event.id) for event in page_read.events] == ["3-1", "4-1"]


async def test_end_of_a_log_is_the_number_of_the_entry_that_closes_it() -> None:
    log = Unreliable()
    writer = writer_to(log)
    assert (writer.log_end(OWN, 1), writer.log_end(OWN, 2)) == (0, None)
    log.answers = [Appended.done, Appended.refused, Appended.late]
    for number in range(3):
        await writer.append(OWN, "custom", str(number))
    assert writer.log_end(OWN, 1) is None, "of a log that is not closed"
    writer.close(OWN)
    assert (writer.log_end(OWN, 1), writer.log_end(OWN, 2)) == (4, 4), "lost events have numbers"
    assert writer.log_end(OWN._replace(fence=4), 1) is None, "of the log of another fence"
    silent = OWN._replace(run_id="silent")
    writer.close(silent, if_empty=True)
    assert writer.log_end(silent, 2) == 1


@pytest.mark.parametrize("repeated", [False, True], ids=["once", "for ever"])
async def test_run_that_holds_in_the_store_outlives_a_log_that_calls_it_stale(repeated: bool) -> None:
    log = Unreliable()
    writer = writer_to(log)
    log.answers = [Appended.stale] * (20 if repeated else 1)
    for number in range(3):
        await writer.append(OWN, "custom", str(number))
    page_read = await log.read("t", "r", None, 10)
    assert page_read is not None
    assert [str(event.id) for event in page_read.events] == ([] if repeated else ["3-1", "3-2", "3-3"])
    assert writer.lost == (3 if repeated else 0)


async def test_stale_answer_ends_a_run_only_if_the_store_confirms() -> None:
    log = Unreliable()
    answers: list[bool | CoordinatorError] = [StoreUnavailable("away"), False]

    async def holds(own: Ownership) -> bool:
        del own
        answer = answers.pop(0)
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    writer = writer_to(log, holds)
    log.answers = [Appended.stale] * 2
    await writer.append(OWN, "custom", "1")
    with pytest.raises(StaleFence):
        await writer.append(OWN, "custom", "2")
    assert answers == []


@pytest.mark.parametrize("data", [float("inf"), object(), {("a",): 1}, b"x"])
def test_what_is_no_json_is_named(data: Any) -> None:
    with pytest.raises(InvalidArgument, match="data"):
        writer_to(LocalEventLog()).encode("custom", data)


def test_too_deep_is_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidArgument, match="data"):
        writer_to(LocalEventLog()).encode("custom", deep)


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_is_encoded_as_ascii_without_line_ends(text: str) -> None:
    """So it fits into one line of a server-sent event, and into UTF-8."""
    encoded = writer_to(LocalEventLog()).encode("custom", text)
    assert encoded.isascii()
    assert "\n" not in encoded
    assert Event(EventId(1, 1), "custom", encoded).data == text


# ---- shared reads --------------------------------------------------------------------------------------


class Slow(LocalEventLog):
    """Reads when it is allowed to, and as a log outside of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.go = asyncio.Event()

    async def read(self, thread_id: str, run_id: str, after: EventId | None, limit: int) -> Page | None:
        self.reads += 1
        page_read = super().peek(run_id, after, limit)
        await self.go.wait()
        return page_read

    def peek(self, run_id: str, after: EventId | None, limit: int) -> Any:
        """Needs I/O."""


async def test_read_of_an_empty_page_began_after_the_call(no_task_left: None) -> None:
    """A follower that was woken for an event joins a read that began before that event was there."""
    log = Slow()
    pages = Pages(log, Jobs(), "t", "r", 10)
    early = asyncio.create_task(pages.after(None))
    await wait_until(lambda: log.reads, description="the read has begun")
    await log.append("t", "r", Entry(EventId(1, 1), "custom", "1", BEGINNING))
    late = asyncio.create_task(pages.after(None))
    await asyncio.sleep(0)
    log.go.set()
    assert await early == Page((), None)
    read = await late
    assert read is not None
    assert [str(event.id) for event in read.events] == ["1-1"]


async def test_concurrent_readers_of_one_position_share_a_read(no_task_left: None) -> None:
    log = Slow()
    log.go.set()
    await log.append("t", "r", Entry(EventId(1, 1), "custom", "1", BEGINNING))
    pages = Pages(log, Jobs(), "t", "r", 10)
    reads = await asyncio.gather(*(pages.after(None) for _ in range(100)))
    assert log.reads == 1
    assert len({id(read) for read in reads}) == 1


async def test_page_that_the_log_has_lost_is_not_returned_again(no_task_left: None) -> None:
    """Otherwise a follower would receive the event and its loss in turn, without end."""
    log, first, second = LocalEventLog(), EventId(1, 1), EventId(1, 2)
    for event_id in (first, second):
        await log.append("t", "r", Entry(event_id, "custom", "1", BEGINNING))
    pages, cursor = Pages(log, Jobs(), "t", "r", 10), Cursor(first)

    async def look() -> list[str]:
        read = await pages.after(cursor.position)
        assert read is not None
        return shown(cursor, read)

    assert await look() == ["1-2"]
    log.forget("r")
    await log.append("t", "r", Entry(first, "custom", "1", BEGINNING))
    assert await look() == ["1-2..None"]
    assert await look() == []
    assert cursor.position == first


async def test_log_that_is_lost_is_read_as_an_empty_one(no_task_left: None) -> None:
    log, event_id = LocalEventLog(), EventId(1, 1)
    await log.append("t", "r", Entry(event_id, "custom", "1", BEGINNING))
    pages = Pages(log, Jobs(), "t", "r", 10)
    read = await pages.after(None)
    assert read is not None
    assert [event.id for event in read.events] == [event_id]
    log.forget("r")
    for position in (event_id, None):
        assert await pages.after(position) == Page((), None)


async def test_event_is_encoded_once_for_all_followers_at_the_newest_page() -> None:
    log, encodings = LocalEventLog(), list[str]()
    for number in (1, 2):
        await log.append("t", "r", Entry(EventId(1, number), "custom", str(number), BEGINNING))
    pages = Pages(log, Jobs(), "t", "r", 10)

    def encode(event: Event) -> bytes:
        encodings.append(event.json)
        return event.json.encode()

    read = pages.peek(None)
    assert read is not None
    for _ in range(3):
        assert [pages.encoded(event, "plain", encode) for event in read.events] == [b"1", b"2"]
    assert encodings == ["1", "2"]
    assert pages.encoded(read.events[0], "another", lambda _: b"x") == b"x"
    await log.append("t", "r", Entry(EventId(1, 3), "custom", "3", BEGINNING))
    newest = pages.peek(EventId(1, 2))
    assert newest is not None
    assert pages.encoded(newest.events[0], "plain", encode) == b"3"
    assert pages.encoded(read.events[0], "plain", encode) == b"1"  # for a follower that is behind


# ---- hints ---------------------------------------------------------------------------------------------


async def test_a_hint_wakes_followers_of_that_log_once() -> None:
    watchers, follower, other, waiter = ThreadWatchers(), WakeupEvent(), WakeupEvent(), WakeupEvent()
    watchers.add(follower, "r")
    watchers.add(other, "r2")
    watchers.add(waiter)
    for event_id, expected in (((1, 1), True), ((1, 1), False), ((1, 3), True), ((1, 2), False)):
        watchers.hint("r", event_id)
        assert await follower.wait(0) is expected
    assert not await other.wait(0)
    assert not await waiter.wait(0)
    watchers.wake_all()
    assert [await wakeup.wait(0) for wakeup in (follower, other, waiter)] == [True, True, True]
    for wakeup in (follower, other, waiter):
        watchers.discard(wakeup)
    assert not watchers


async def test_wait_ends_at_its_own_timeout_although_an_earlier_timer_is_armed() -> None:
    wakeup = WakeupEvent()
    wakeup.set()
    assert await wakeup.wait(0.02)
    for armed, timeout in ((0.02, 0.15), (60.0, 0.05), (0.01, 0.01)):
        asyncio.get_running_loop().call_soon(wakeup.set)
        assert await wakeup.wait(armed)
        began = time.monotonic()
        assert not await wakeup.wait(timeout)
        assert time.monotonic() - began >= timeout - 0.005
    wakeup.close()


async def test_cancelled_wait_keeps_the_wakeup() -> None:
    wakeup = WakeupEvent()
    waiting = asyncio.create_task(wakeup.wait(60.0))
    await asyncio.sleep(0)
    wakeup.set()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await wakeup.wait(0)
    assert not await wakeup.wait(0)


async def test_hint_wakes_new_follower_after_an_earlier_one() -> None:
    """What was hinted before is forgotten with the last follower of a log, although the thread is watched."""
    watchers, waiter, earlier, later = ThreadWatchers(), WakeupEvent(), WakeupEvent(), WakeupEvent()
    watchers.add(waiter)
    watchers.add(earlier, "r")
    watchers.hint("r", (1, 5))
    assert await earlier.wait(0)
    watchers.discard(earlier)
    assert watchers
    watchers.add(later, "r")
    watchers.hint("r", (1, 5))
    assert await later.wait(0)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"log:3-14:run-1", (b"run-1", (3, 14))),
        (b"log:3-14:a:b", (b"a:b", (3, 14))),
        (b"log:3-14:", None),
        (b"log:-1-1:r", None),
        (b"log:%s-1:r" % (b"9" * 20), None),
        (b"log:1-1:" + b"x" * 129, None),
        (b'{"kind":"settled"}', None),
        (b"", None),
    ],
)
def test_hints_are_read_strictly(payload: bytes, expected: object) -> None:
    assert read_hint(payload) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'event:3-14:run-1\ncustom\n{"n":1}', (b"run-1", (3, 14), b"custom", b'{"n":1}')),
        (b"event:3-14:a:b\n\n", (b"a:b", (3, 14), b"", b"")),
        (b"event:3-14:r\nm\n1\n2", (b"r", (3, 14), b"m", b"1\n2")),
        (b"event:3-14:\nm\n1", None),
        (b"event:3-14:r\nm", None),
        (b"event:-1-1:r\nm\n1", None),
        (b"event:1-1:" + b"x" * 129 + b"\nm\n1", None),
        (b"log:3-14:r", None),
        (b"", None),
    ],
)
def test_published_events_are_read_strictly(payload: bytes, expected: object) -> None:
    assert read_event(payload) == expected
    assert read_hint(payload) is None or not payload.startswith(b"event:")


def published(events: PublishedEvents, *numbers: int, fence: int = 1) -> None:
    for number in numbers:
        events.receive(b"r", (fence, number), b"custom", b"%d" % number)


def after(events: PublishedEvents, fence: int, number: int, limit: int = 100) -> list[int] | None:
    """The numbers of the events behind this one; None if the log has to be read."""
    page = events.after(b"r", EventId(fence, number), limit)
    return None if page is None else [event.id.number for event in page.events]


def test_published_events_are_those_behind_the_position() -> None:
    events = PublishedEvents()
    published(events, 1)
    with events.followed(b"r"):
        assert events.after(b"r", None, 10) is None
        published(events, 2, 3, 4)
        assert [after(events, 1, number) for number in range(5)] == [None, [2, 3, 4], [3, 4], [4], None]
        assert after(events, 1, 1, limit=2) == [2, 3]
        assert after(events, 2, 2) is None
        assert events.after(b"other", EventId(1, 1), 10) is None
        with events.followed(b"r"):
            pass
        published(events, 5, 3, 5)
        assert after(events, 1, 3) == [4, 5], "those that come again are dropped"
        published(events, 7)
        assert after(events, 1, 4) is None, "6 was not published: the log is read"
        assert after(events, 1, 6) == [7]
        published(events, 1, fence=2)
        published(events, 8)
        assert (after(events, 1, 6), after(events, 2, 0)) == (None, [1])
    assert after(events, 2, 0) is None


def test_published_events_are_bounded() -> None:
    events = PublishedEvents()
    with events.followed(b"r"):
        published(events, *range(1, 1001))
        newest = list(range(1001 - MAX_EVENTS, 1001))
        assert after(events, 1, newest[0] - 1) == newest
        assert after(events, 1, newest[0] - 2) is None
        for number in range(1001, 1101):
            events.receive(b"r", (1, number), b"custom", b'"%b"' % (b"x" * 4_000))
        assert [len(after(events, 1, number) or ()) for number in (1097, 1098, 1099)] == [0, 2, 1]


@pytest.mark.parametrize(
    ("mode", "data"),
    [(b"a\x1b", b"1"), (b"\xff", b"1"), (b"custom", b"\xff"), (b"custom", b"1\n2"), (b"custom", b"\x00")],
)
def test_invalid_published_event_is_left_to_the_log(mode: bytes, data: bytes) -> None:
    events = PublishedEvents()
    with events.followed(b"r"):
        published(events, 1)
        events.receive(b"r", (1, 2), mode, data)
        assert after(events, 1, 1) is None
