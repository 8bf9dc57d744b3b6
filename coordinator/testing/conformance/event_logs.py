"""Conformance checks of event logs, for any storage."""

from __future__ import annotations

from coordinator.event_log import BEGINNING, END, TAIL, Appended, Entry, EventId, EventLog, Page
from coordinator.testing.conformance.suite import Check, checks_of


def entry(fence: int, number: int, text: str = '{"n":1}', *, floor: EventId = BEGINNING) -> Entry:
    return Entry(EventId(fence, number), "custom", text, floor)


async def ids(log: EventLog, run: str, after: EventId | None = None, limit: int = 1000) -> list[str]:
    return [str(event.id) for event in (await page(log, run, after, limit)).events]


async def page(log: EventLog, run: str, after: EventId | None = None, limit: int = 1000) -> Page:
    page = await log.read("t", run, after, limit)
    assert page is not None, "the log can be read"
    return page


async def appended_events_are_read_in_order_and_unchanged(log: EventLog) -> None:
    text = '{"text":"\\ud83d\\ude00 \\ud800 \\u0000","list":[1,2.5,null]}'
    assert (
        await log.append("t", "r1", Entry(EventId(1, 1), "updates|sub:é", text, BEGINNING)) is Appended.done
    )
    for number in (2, 3):
        assert await log.append("t", "r1", entry(1, number)) is Appended.done
    events = (await page(log, "r1")).events
    assert [str(event.id) for event in events] == ["1-1", "1-2", "1-3"]
    assert (events[0].mode, events[0].json) == ("updates|sub:é", text)
    assert events[1].data == {"n": 1}


async def missing_log_is_empty(log: EventLog) -> None:
    assert await page(log, "r2") == Page((), None)
    assert await page(log, "r2", EventId(5, 5)) == Page((), None)


async def reading_resumes_after_any_id(log: EventLog) -> None:
    for number in range(1, 8):
        await log.append("t", "r3", entry(2, number))
    assert await ids(log, "r3", EventId(2, 3), 2) == ["2-4", "2-5"]
    assert await ids(log, "r3", EventId(1, 999)) == [f"2-{number}" for number in range(1, 8)]
    assert await ids(log, "r3", EventId(2, 6)) == ["2-7"]


async def reader_at_the_end_gets_the_newest_id(log: EventLog) -> None:
    await log.append("t", "r4", entry(1, 1))
    for after in (EventId(1, 1), EventId(1, 2), EventId(9, 9), TAIL):
        assert await page(log, "r4", after) == Page((), EventId(1, 1))


async def append_is_idempotent(log: EventLog) -> None:
    for number in (1, 2, 2, 1):
        assert await log.append("t", "r5", entry(1, number)) is Appended.done
    assert await ids(log, "r5") == ["1-1", "1-2"]


async def event_after_a_later_number_is_refused(log: EventLog) -> None:
    for number, expected in ((1, Appended.done), (3, Appended.done), (2, Appended.late)):
        assert await log.append("t", "r6", entry(1, number)) is expected
    assert await ids(log, "r6") == ["1-1", "1-3"]


async def older_fence_is_refused_by_the_log(log: EventLog) -> None:
    for fence, number, expected in (
        (3, 1, Appended.done),
        (4, 1, Appended.done),
        (3, 2, Appended.stale),
        (4, 2, Appended.done),
        (3, 3, Appended.stale),
    ):
        assert await log.append("t", "r7", entry(fence, number)) is expected
    assert await ids(log, "r7") == ["3-1", "4-1", "4-2"]


async def run_beside_the_slot_has_fence_zero(log: EventLog) -> None:
    assert await log.append("t", "r8", entry(0, 1)) is Appended.done
    assert await ids(log, "r8") == ["0-1"]


async def last_entry_has_no_mode(log: EventLog) -> None:
    await log.append("t", "r9", entry(1, 1))
    log.close("t", "r9", Entry(EventId(1, 2), END, "", BEGINNING))
    events = (await page(log, "r9")).events
    assert [(str(event.id), event.mode) for event in events] == [("1-1", "custom"), ("1-2", END)]


async def events_below_the_floor_are_truncated(log: EventLog) -> None:
    """Redis truncates whole nodes: up to 100 entries more are kept than requested."""
    await log.append("t", "r10", entry(1, 1))
    for number in range(1, 501):
        floor = EventId(2, number - 99) if number > 100 else BEGINNING
        await log.append("t", "r10", entry(2, number, floor=floor))
    kept = await ids(log, "r10")
    assert kept[-100:] == [f"2-{number}" for number in range(401, 501)]
    assert 100 <= len(kept) <= 200


async def large_events_are_read_unchanged(log: EventLog) -> None:
    text = '"' + "x" * ((1 << 20) - 2) + '"'
    for number in range(1, 4):
        assert await log.append("t", "r11", entry(1, number, text)) is Appended.done
    texts: list[str] = []
    after: EventId | None = None
    while events := (await page(log, "r11", after)).events:
        texts += [event.json for event in events]
        after = events[-1].id
    assert texts == [text] * 3


async def runs_of_any_name_are_kept_apart(log: EventLog) -> None:
    names = ["r12", "r12 ", "{r12}", "é", "\ud800", "x" * 255]
    for number, name in enumerate(names, 1):
        await log.append("t", name, entry(1, number))
    assert [await ids(log, name) for name in names] == [[f"1-{number}"] for number in range(1, 7)]


async def forgotten_log_may_be_missing(log: EventLog) -> None:
    log.forget("never seen")
    await log.append("t", "r13", entry(1, 1))
    log.forget("r13")
    assert await ids(log, "r13") in ([], ["1-1"])


async def removed_log_is_empty(log: EventLog) -> None:
    log.remove("t", "never seen")
    for run in ("r14", "r15"):
        await log.append("t", run, entry(1, 1))
    log.remove("t", "r14")
    assert (await ids(log, "r14"), await ids(log, "r15")) == ([], ["1-1"])
    assert await log.append("t", "r14", entry(1, 1)) is Appended.done


async def events_of_newer_fences_are_reclaimed(log: EventLog) -> None:
    """After a restore of the store its next fences are lower than those in the log."""
    log.reclaim("t", "never seen", 1)
    await log.append("t", "r16", entry(5, 1))
    assert await log.append("t", "r16", entry(3, 1)) is Appended.stale
    log.reclaim("t", "r16", 5)
    assert await ids(log, "r16") == ["5-1"]
    log.reclaim("t", "r16", 3)
    for number in (1, 2):
        assert await log.append("t", "r16", entry(3, number)) is Appended.done
    assert await ids(log, "r16") == ["3-1", "3-2"]


EVENT_LOG: tuple[Check[EventLog], ...] = checks_of(
    appended_events_are_read_in_order_and_unchanged,
    missing_log_is_empty,
    reading_resumes_after_any_id,
    reader_at_the_end_gets_the_newest_id,
    append_is_idempotent,
    event_after_a_later_number_is_refused,
    older_fence_is_refused_by_the_log,
    run_beside_the_slot_has_fence_zero,
    last_entry_has_no_mode,
    events_below_the_floor_are_truncated,
    large_events_are_read_unchanged,
    runs_of_any_name_are_kept_apart,
    forgotten_log_may_be_missing,
    removed_log_is_empty,
    events_of_newer_fences_are_reclaimed,
)
