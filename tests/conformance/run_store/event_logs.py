"""Event logs that the store keeps. How followers read them: `coordinator.testing.conformance.event_logs`."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.events import EventPage, EventsKept, Kept, NewEvents, Position
from stores.pruning import Retention
from stores.rows import Ownership
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    created,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    running,
)

TTL = 60.0
DONE, FOLLOWED = EventsKept(Kept.done, followed=False), EventsKept(Kept.done, followed=True)
STALE, GONE = EventsKept(Kept.stale, followed=False), EventsKept(Kept.gone, followed=False)
MODE = "updates|sub:é"


def emitted(own: Ownership, *numbers: int, text: str = "1", floor: Position = (0, 0)) -> NewEvents:
    return NewEvents(own.run_id, own.fence, tuple((number, MODE, text) for number in numbers), floor)


async def kept(store: Any, *logs: NewEvents) -> list[EventsKept]:
    return await store.append_events(logs, ttl=TTL)


async def page(store: Any, run_id: str, after: Position | None = None, limit: int = 1000) -> EventPage:
    return await store.events(run_id, after, limit=limit, max_bytes=1 << 20)


async def numbers(store: Any, run_id: str, after: Position | None = None, limit: int = 1000) -> list[int]:
    return [number for _, number, _, _ in (await page(store, run_id, after, limit)).events]


async def expired(store: Any, limit: int = 100, max_bytes: int | None = None) -> int:
    return await store.expire_events(limit=limit, max_bytes=max_bytes)


class EventLogs(StoreCase):
    async def test_events_are_read_in_order_and_as_they_were(self, store: Any, me: int) -> None:
        own = await running(store, me)
        text = '{"text":"\\ud83d\\ude00 \\ud800 \\u0000","list":[1,2.5,null]}'
        assert await kept(store, NewEvents(own.run_id, own.fence, ((1, MODE, text), (2, "", "")))) == [DONE]
        log = await page(store, own.run_id)
        assert log.events == ((own.fence, 1, MODE, text), (own.fence, 2, "", ""))
        assert log.top == (own.fence, 2)

    async def test_many_runs_are_written_at_once_and_kept_apart(self, store: Any, me: int) -> None:
        one, other = await running(store, me, "a"), await running(store, me, "b")
        assert await kept(store, emitted(one, 1, 2), emitted(other, 1)) == [DONE, DONE]
        assert (await numbers(store, one.run_id), await numbers(store, other.run_id)) == ([1, 2], [1])
        tops = await store.log_tops([one.run_id, other.run_id, "unknown"])
        assert dict(tops) == {one.run_id: (one.fence, 2), other.run_id: (other.fence, 1)}

    async def test_reading_goes_on_behind_any_position(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await kept(store, emitted(own, *range(1, 8)))
        fence = own.fence
        assert await numbers(store, own.run_id, (fence, 3), 2) == [4, 5]
        assert await numbers(store, own.run_id, (fence - 1, 999)) == list(range(1, 8))
        assert await page(store, own.run_id, (fence, 7)) == EventPage((), (fence, 7))
        assert await page(store, own.run_id, (fence + 9, 1)) == EventPage((), (fence, 7))
        assert await page(store, "unknown") == EventPage((), None)

    async def test_a_page_ends_with_the_event_that_fills_it(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await kept(store, emitted(own, 1, 2, 3, 4, text='"' + "x" * 98 + '"'))
        log = await store.events(own.run_id, None, limit=10, max_bytes=150)
        assert [event[1] for event in log.events] == [1, 2]
        assert log.top == (own.fence, 4)

    async def test_repeated_events_are_stored_once(self, store: Any, me: int) -> None:
        own = await running(store, me)
        assert await kept(store, emitted(own, 1, 2)) == [DONE]
        assert await kept(store, emitted(own, 1, 2, 3)) == [DONE]
        assert await kept(store, emitted(own, 1)) == [DONE]
        assert await numbers(store, own.run_id) == [1, 2, 3]
        assert dict(await store.log_tops([own.run_id])) == {own.run_id: (own.fence, 3)}

    async def test_what_is_below_the_floor_is_removed(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await kept(store, emitted(own, *range(1, 6)))
        await kept(store, emitted(own, 6, floor=(own.fence, 4)))
        assert await numbers(store, own.run_id) == [4, 5, 6]

    async def test_events_of_a_fenced_worker_are_refused(self, store: Any, me: int, peer: int) -> None:
        own, other = await running(store, me, "a"), await running(store, peer, "b")
        await kept(store, emitted(own, 1))
        await fence_epoch(store, me, by=peer)
        assert await kept(store, emitted(own, 2), emitted(other, 1)) == [STALE, DONE]
        assert (await numbers(store, own.run_id), await numbers(store, other.run_id)) == ([1], [1])

    async def test_an_older_fence_is_refused_and_a_newer_one_goes_on(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await kept(store, emitted(own, 1))
        newer = await store.refence(own)
        assert newer is not None
        assert await kept(store, emitted(own, 2)) == [STALE]
        assert await kept(store, emitted(newer, 1)) == [DONE]
        log = await page(store, own.run_id)
        assert [event[:2] for event in log.events] == [(own.fence, 1), (newer.fence, 1)]
        assert log.top == (newer.fence, 1)

    async def test_what_was_emitted_before_the_end_is_taken_after_it(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS)
        assert await kept(store, emitted(own, 1)) == [DONE]
        await running(store, me)  # another run holds the thread
        assert await kept(store, emitted(own, 2)) == [DONE]
        await store.retire(me)
        assert await kept(store, emitted(own, 3)) == [STALE]

    async def test_a_run_beside_the_slot_has_fence_zero(self, store: Any, me: int) -> None:
        await running(store, me)
        run = new_run()
        await store.insert(run, epoch=me)
        own = Ownership(run.run_id, "t", me, 0)
        assert await kept(store, emitted(own, 1)) == [DONE]
        assert await numbers(store, run.run_id) == [1]

    async def test_an_unknown_run_has_no_log(self, store: Any, me: int) -> None:
        assert await kept(store, emitted(Ownership("unknown", "t", me, 1), 1)) == [GONE]
        assert await kept(store) == []
        assert dict(await store.log_tops([])) == {}

    @pytest.mark.parametrize("way", ["delete", "delete_run", "prune", "delete_thread", "expire_threads"])
    async def test_it_goes_with_its_run(self, store: Any, me: int, clock: StoreClock, way: str) -> None:
        temporary_ms = 1000 if way == "expire_threads" else None
        own = await running(store, me, temporary_ms=temporary_ms, created_at=created(0))
        await kept(store, emitted(own, 1, 2))
        await store.finish(own, SUCCESS)
        if way == "delete":
            await store.delete(own.run_id)
        elif way == "delete_run":
            await store.delete_run(own.run_id, thread_id=None, user_id=None)
        elif way == "prune":
            last = await running(store, me, created_at=created(1))  # the last run of a thread stays
            await store.finish(last, SUCCESS)
            clock.advance(100)
            step = await store.prune(Retention(runs=1.0, keys=0))
            while step.cursor is not None:
                step = await store.prune(Retention(runs=1.0, keys=0), cursor=step.cursor)
        elif way == "delete_thread":
            await store.delete_thread(await holding(store, me, kind="op"))
        else:
            clock.advance(1)
            assert await store.expire_threads(limit=10)
        assert await store.row(own.run_id) is None
        assert await page(store, own.run_id) == EventPage((), None)
        assert dict(await store.log_tops([own.run_id])) == {}
        assert await kept(store, emitted(own, 3)) == [GONE]

    async def test_a_log_ends_so_long_after_its_last_event(
        self, store: Any, me: int, clock: StoreClock
    ) -> None:
        own = await running(store, me)
        await kept(store, emitted(own, 1))
        clock.advance(TTL - 10)
        await kept(store, emitted(own, 2))
        clock.advance(TTL - 1)
        assert await expired(store) == 0
        assert await numbers(store, own.run_id) == [1, 2]
        clock.advance(1)
        assert await expired(store) == 2
        assert await page(store, own.run_id) == EventPage((), None)
        assert await kept(store, emitted(own, 3)) == [DONE]  # the run continues
        assert await numbers(store, own.run_id) == [3]

    async def test_long_logs_go_in_pieces(self, store: Any, me: int, clock: StoreClock) -> None:
        one, other = await running(store, me, "a"), await running(store, me, "b")
        await kept(store, emitted(one, *range(1, 6)))
        clock.advance(1)
        await kept(store, emitted(other, *range(1, 4)))
        clock.advance(TTL)
        assert await expired(store, limit=4) == 4
        assert (await numbers(store, one.run_id), await numbers(store, other.run_id)) == ([5], [1, 2, 3])
        assert await expired(store, limit=4) == 4
        assert await expired(store, limit=4) == 0

    async def test_where_all_logs_are_too_large_the_most_silent_go(
        self, store: Any, me: int, clock: StoreClock
    ) -> None:
        owns = [await running(store, me, thread) for thread in "abc"]
        for own in owns:
            await kept(store, emitted(own, 1, text='"' + "x" * 98 + '"'))
            clock.advance(5)
        for _ in range(2):
            await expired(store, max_bytes=250)
        assert [await numbers(store, own.run_id) for own in owns] == [[], [1], [1]]
        await kept(store, emitted(owns[1], 2, floor=(owns[1].fence, 2)))  # what was trimmed does not count
        for _ in range(2):
            await expired(store, max_bytes=101)
        assert [await numbers(store, own.run_id) for own in owns] == [[], [2], [1]]

    async def test_append_reports_whether_the_run_is_followed(
        self, store: Any, me: int, clock: StoreClock
    ) -> None:
        own, other = await running(store, me, "a"), await running(store, me, "b")
        await store.follow_runs([own.run_id, "unknown"], seconds=10, logs=True)
        assert await page(store, own.run_id) == EventPage((), None)
        assert dict(await store.log_tops([own.run_id])) == {}
        assert await kept(store, emitted(own, 1), emitted(other, 1)) == [FOLLOWED, DONE]
        clock.advance(5)
        await store.follow_runs([own.run_id], seconds=10, logs=True)
        clock.advance(9)
        assert await kept(store, emitted(own, 2)) == [FOLLOWED]
        clock.advance(1)
        assert await kept(store, emitted(own, 3)) == [DONE]
        assert await numbers(store, own.run_id) == [1, 2, 3]

    async def test_a_mark_alone_passes_too(self, store: Any, me: int, clock: StoreClock) -> None:
        own = await running(store, me)
        await store.follow_runs([own.run_id], seconds=10, logs=True)
        clock.advance(10)
        assert await expired(store) == 0
        await store.finish(own, SUCCESS)
        await store.follow_runs([own.run_id], seconds=10, logs=True)
        assert await kept(store, emitted(own, 1)) == [DONE]

    async def test_a_run_that_is_followed_outlives_its_threads_time(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        followed: Any = store
        own = await running(store, me, "followed", temporary_ms=5000)
        other = await running(store, me, "not followed", temporary_ms=5000)
        lasting = await running(store, me, "lasting")
        for one in (own, other, lasting):
            await store.finish(one, SUCCESS)
        before = await store.thread("lasting")
        clock.advance(4)
        await followed.follow_runs([own.run_id, lasting.run_id, "unknown"], seconds=6, logs=False)
        clock.advance(5)
        assert [gone.thread_id for gone in await store.expire_threads(limit=10)] == ["not followed"]
        clock.advance(1)
        assert [gone.thread_id for gone in await store.expire_threads(limit=10)] == ["followed"]
        assert await store.thread("lasting") == before

    async def test_a_workers_new_epoch_does_not_write_for_the_old_one(self, store: Any, me: int) -> None:
        own = await running(store, me)
        await store.retire(me)
        await store.register(new_worker())
        assert await kept(store, emitted(own, 1)) == [STALE]
