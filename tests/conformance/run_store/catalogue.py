"""Threads, and the runs of a thread: created, listed and deleted by clients, visible to their user only."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.catalogue import NewThread, ThreadPatch, ThreadQuery
from stores.errors import ConflictError, RunNotFound, ThreadExists, ThreadNotFound
from stores.pages import Page
from stores.rows import Limits, Outcome, RunRow, ThreadRow
from stores.spec import AdmissionRequest
from stores.states import CancelAction, RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    ENDED,
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    holding,
    new_run,
    row_of,
    running,
    sql_of,
    waiting,
)

FAILED = Outcome(RunStatus.error, "ValueError: no")
ALL = ThreadQuery(limit=1000)


async def made(store: CoordinationStore, thread_id: str = "t", **fields: Any) -> ThreadRow:
    return await store.create_thread(NewThread(thread_id, **fields))


async def search(store: CoordinationStore, user_id: Any = None, **query: Any) -> list[str]:
    """Returns the ids of the threads that match, in the order of the store's answer."""
    return [thread.thread_id for thread in await store.threads(ThreadQuery(**query), user_id=user_id)]


async def listed(store: CoordinationStore, thread_id: str = "t", **query: Any) -> Page[RunRow]:
    known: dict[str, Any] = {"statuses": (), "limit": 100, "offset": 0, "user_id": None}
    return await store.thread_runs(thread_id, **{**known, **query})


async def inflight(store: CoordinationStore, *statuses: str, **query: Any) -> list[str]:
    known: dict[str, Any] = {"thread_id": None, "user_id": None, "after": "", "limit": 100}
    rows = await store.inflight_runs(statuses=statuses, **{**known, **query})
    return [row.run_id for row in rows]


class Threads(StoreCase):
    async def test_a_new_thread_is_idle_and_empty(self, store: CoordinationStore, clock: StoreClock) -> None:
        thread = await made(store, user_id="u", metadata={"a": 1}, ttl_ms=60_000)
        assert thread == await store.thread("t")
        assert (thread.user_id, thread.status, thread.metadata) == ("u", "idle", {"a": 1})
        assert (thread.values, thread.interrupts, thread.error, thread.fence) == (None, None, None, 0)
        assert {thread.created_at, thread.updated_at, thread.state_updated_at} == {clock.micros}
        assert (thread.ttl_ms, thread.expires_at) == (60_000, clock.micros + 60_000_000)

    async def test_an_id_is_given_once(self, store: CoordinationStore) -> None:
        first = await made(store, user_id="u", metadata={"first": True})
        with pytest.raises(ThreadExists, match="already exists") as taken:
            await made(store, user_id="u")
        assert taken.value.active_run_id is None
        assert await made(store, user_id="u", metadata={"first": False}, existing_ok=True) == first
        assert await made(store, existing_ok=True) == first, "the system sees the threads of all users"

    @pytest.mark.parametrize("existing_ok", [False, True])
    @pytest.mark.parametrize("owner", ["u", None])
    async def test_create_with_a_foreign_id_reveals_only_that_it_is_taken(
        self, store: CoordinationStore, existing_ok: bool, owner: str | None
    ) -> None:
        before = await made(store, user_id=owner, metadata={"secret": 1})
        with pytest.raises(ThreadExists) as own:
            await made(store, user_id=owner)
        with pytest.raises(ThreadExists) as foreign:
            await made(store, user_id="v", existing_ok=existing_ok)
        assert str(foreign.value) == str(own.value)
        assert await store.thread("t") == before

    async def test_of_two_who_make_it_at_once_one_does(self, store: CoordinationStore) -> None:
        made_by = await asyncio.gather(
            *(made(store, user_id=user, metadata={"by": user}) for user in "uvwx"), return_exceptions=True
        )
        (thread,) = [answer for answer in made_by if isinstance(answer, ThreadRow)]
        assert [type(answer) for answer in made_by].count(ThreadExists) == 3
        assert await store.thread("t") == thread
        assert thread.metadata == {"by": thread.user_id}

    async def test_it_goes_on_from_the_fence_of_one_that_was_deleted(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        await store.finish(own, SUCCESS)
        operation = await running(store, me, kind="op")
        await store.delete_thread(operation)
        assert (await made(store)).fence == operation.fence
        assert (await holding(store, me)).fence == operation.fence + 1

    async def test_each_thread_goes_on_from_its_own_fence(self, store: CoordinationStore, me: int) -> None:
        """Several were deleted, after a different number of runs."""
        deleted: dict[str, int] = {}
        for runs, thread_id in enumerate(("a", "b", "c"), start=1):
            for _ in range(runs):
                await store.finish(await running(store, me, thread_id), SUCCESS)
            operation = await running(store, me, thread_id, kind="op")
            await store.delete_thread(operation)
            deleted[thread_id] = operation.fence
        assert deleted == {"a": 2, "b": 3, "c": 4}
        made_again = {
            thread_id: (await store.create_thread(NewThread(thread_id))).fence for thread_id in "cba"
        }
        assert made_again == deleted
        assert (await store.create_thread(NewThread("new"))).fence == 0

    async def test_its_first_run_finds_what_it_was_made_with(self, store: CoordinationStore, me: int) -> None:
        await made(store, user_id="u", metadata={"a": 1}, ttl_ms=60_000)
        assert (await admitted(store, me, user_id="u")).seq == 1
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.metadata, thread.ttl_ms) == ("busy", {"a": 1}, 60_000)

    async def test_an_admission_writes_what_runs_there_into_the_metadata(
        self, store: CoordinationStore, me: int
    ) -> None:
        stamp, other = {"graph_id": "é", "assistant_id": "1"}, {"graph_id": "g", "assistant_id": "2"}

        async def metadata(thread_id: str) -> Any:
            thread = await store.thread(thread_id)
            return None if thread is None else thread.metadata

        await made(store, metadata={"ключ": "\ud800", "graph_id": 5, "deep": {"x": [1, 2.5e300, None]}})
        for thread_id, given, expected in (
            ("new", stamp, stamp),
            ("new", stamp, stamp),
            ("new", None, stamp),
            ("new", other, other),
            (
                "t",
                stamp,
                {"ключ": "\ud800", "graph_id": "é", "deep": {"x": [1, 2.5e300, None]}, "assistant_id": "1"},
            ),
        ):
            own = await running(store, me, thread_id, thread_metadata=given)
            assert await metadata(thread_id) == expected
            await store.finish(own, SUCCESS)
        assert await search(store, metadata={"graph_id": "é"}) == ["t"]
        patched = await store.patch_thread("t", ThreadPatch(metadata={"more": 1}), user_id=None)
        await store.finish(await running(store, me, "t", thread_metadata=stamp), SUCCESS)
        assert await metadata("t") == patched.metadata

    async def test_keys_that_admissions_replace_are_in_the_metadata_once(
        self, store: CoordinationStore, me: int
    ) -> None:
        """JSON holds U+0000 and half of a surrogate pair; text of PostgreSQL does not."""
        odd = {
            "a\ud800": "\udfff\\ud800",
            "nul\0": "\0",
            "pair": "\U0001f600",
            "deep": {"graph_id": "\udc00"},
        }
        await made(store, metadata=odd)
        for name in ("a", "\ud801", "é", "b"):
            stamp = {"graph_id": name, "assistant_id": name}
            await store.finish(await running(store, me, "t", thread_metadata=stamp), SUCCESS)
            thread = await store.thread("t")
            assert thread is not None
            assert thread.metadata == {**odd, **stamp}
            raw = sql_of(store)("SELECT metadata FROM threads")[0][0]
            assert (raw.count('"graph_id"'), raw.count('"assistant_id"')) == (2, 1)

    async def test_metadata_that_cannot_be_read_keeps_no_run_from_its_thread(
        self, store: CoordinationStore, me: int
    ) -> None:
        await made(store)
        sql_of(store)("UPDATE threads SET metadata = '{broken'")
        await running(store, me, thread_metadata={"graph_id": "g", "assistant_id": "1"})
        assert sql_of(store)("SELECT metadata FROM threads")[0][0] == "{broken"

    async def test_a_patch_merges_key_by_key(self, store: CoordinationStore, clock: StoreClock) -> None:
        await made(store, user_id="u", metadata={"a": {"x": 1}, "b": 1}, ttl_ms=1000)
        clock.advance(5)
        patched = await store.patch_thread("t", ThreadPatch({"a": {"y": 2}, "c": None}), user_id="u")
        assert patched == await store.thread("t")
        assert patched.metadata == {"a": {"y": 2}, "b": 1, "c": None}
        assert (patched.ttl_ms, patched.updated_at) == (1000, clock.micros)
        patched = await store.patch_thread("t", ThreadPatch(ttl_ms=None, sets_ttl=True), user_id="u")
        assert (patched.ttl_ms, patched.expires_at) == (None, None)

    async def test_a_time_to_live_that_is_set_makes_a_temporary_thread_one_like_any_other(
        self, store: CoordinationStore
    ) -> None:
        await made(store, temporary=True, ttl_ms=5000)
        assert (await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None)).temporary
        patched = await store.patch_thread("t", ThreadPatch(ttl_ms=60_000, sets_ttl=True), user_id=None)
        assert (patched.temporary, await search(store)) == (False, ["t"])

    async def test_patches_at_once_lose_nothing(self, store: CoordinationStore) -> None:
        await made(store)
        await asyncio.gather(
            *(store.patch_thread("t", ThreadPatch({str(n): n}), user_id=None) for n in range(20))
        )
        thread = await store.thread("t")
        assert thread is not None
        assert thread.metadata == {str(n): n for n in range(20)}

    async def test_fields_of_a_run_merge_key_by_key_whatever_its_status(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me, user_id="u", extra={"a": {"x": 1}, "b": 1})
        update = partial(store.update_extra, own.run_id, user_id="u", max_bytes=100)
        assert await update({"a": {"y": "\ud83d\0"}, "c": None}) == {
            "a": {"y": "\ud83d\0"},
            "b": 1,
            "c": None,
        }
        await store.finish(own, FAILED)
        merged = await update({"b": 2})
        row = await store.run(own.run_id, thread_id=None, user_id="u")
        assert row is not None
        assert (row.extra, row.status) == (merged, "error")
        (record,) = await store.list_by_thread("t")
        assert record["extra"] == {"a": {"y": "\ud83d\0"}, "b": 2, "c": None}

    async def test_fields_of_a_run_that_would_be_too_large_change_nothing(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me, extra={"a": 1})
        assert await store.update_extra(own.run_id, {"b": "x" * 11}, user_id=None, max_bytes=24) is None
        assert await store.update_extra(own.run_id, {"b": "x" * 10}, user_id=None, max_bytes=24) is not None
        assert await store.update_extra(own.run_id, {"c": 1}, user_id=None, max_bytes=24) is None
        row = await store.run(own.run_id, thread_id=None, user_id=None)
        assert row is not None
        assert row.extra == {"a": 1, "b": "x" * 10}

    async def test_updates_of_the_fields_of_a_run_at_once_lose_nothing(
        self, store: CoordinationStore, me: int
    ) -> None:
        own = await running(store, me)
        await asyncio.gather(
            *(store.update_extra(own.run_id, {str(n): n}, user_id=None, max_bytes=1000) for n in range(20))
        )
        row = await store.run(own.run_id, thread_id=None, user_id=None)
        assert row is not None
        assert row.extra == {str(n): n for n in range(20)}

    async def test_the_state_has_a_time_of_its_own(
        self, store: CoordinationStore, me: int, clock: StoreClock
    ) -> None:
        begin = (await made(store)).created_at
        clock.advance(1)
        own = await running(store, me)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.updated_at, thread.state_updated_at) == (clock.micros, begin)
        clock.advance(1)
        await store.save(own, {"n": 1})
        saved = clock.micros
        clock.advance(1)
        await store.finish(own, FAILED)
        await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.updated_at, thread.state_updated_at) == (clock.micros, saved)

    async def test_the_error_is_that_of_the_last_run(self, store: CoordinationStore, me: int) -> None:
        await store.finish(await running(store, me), FAILED)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.error) == ("error", "ValueError: no")
        await store.finish(await running(store, me), SUCCESS)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.error) == ("idle", None)

    # -- finding

    @pytest.mark.parametrize(
        ("part", "fits"),
        [
            ({}, True),
            ({"n": 1}, True),
            ({"n": 1.0}, True),
            ({"n": True}, False),
            ({"n": "1"}, False),
            ({"yes": True}, True),
            ({"yes": 1}, False),
            ({"none": None}, True),
            ({"missing": None}, False),
            ({"deep": {"a": {"b": 2}}}, True),
            ({"deep": {"a": {}}}, True),
            ({"deep": {"a": {"c": 3}}}, False),
            ({"list": [3, 1]}, True),
            ({"list": [{"k": 1}]}, True),
            ({"list": []}, True),
            ({"list": [4]}, False),
            ({"list": {"k": 1}}, False),
            ({"n": [1]}, False),
            ({"we'ird \" k%y": "ö"}, True),
        ],
    )
    async def test_containment(self, store: CoordinationStore, part: dict[str, Any], fits: bool) -> None:
        whole: dict[str, Any] = {
            "n": 1,
            "yes": True,
            "none": None,
            "deep": {"a": {"b": 2, "x": 0}, "y": 0},
            "list": [1, 2, 3, {"k": 1, "l": 2}],
            "we'ird \" k%y": "ö",
        }
        await made(store, metadata=whole)
        await made(store, "other")
        sql_of(store)("UPDATE threads SET \"values\" = metadata WHERE thread_id = 't'")
        for column in ("metadata", "values"):
            query = ThreadQuery(metadata=part) if column == "metadata" else ThreadQuery(values=part)
            expected = (["t"] if fits else []) if part else ["t", "other"]
            assert sorted(await search(store, **{column: part})) == sorted(expected)
            assert await store.count_threads(query, user_id=None) == len(expected)

    async def test_by_status(self, store: CoordinationStore, me: int) -> None:
        await made(store, "idle")
        await running(store, me, "busy")
        await store.finish(await running(store, me, "error"), FAILED)
        stopped = await running(store, me, "interrupted")
        await cancel(store, stopped.run_id)
        await store.settle(stopped, ENDED)
        names = ("idle", "busy", "error", "interrupted")
        for status in names:
            assert await search(store, status=status) == [status]
            assert await store.count_threads(ThreadQuery(status=status), user_id=None) == 1
        assert await search(store, sort_by="status", sort_order="asc") == sorted(names)
        threads = await store.threads(ALL, user_id=None)
        assert {thread.thread_id: thread.status for thread in threads} == {name: name for name in names}
        assert {thread.thread_id: thread.error for thread in threads}["error"] == "ValueError: no"

    @pytest.mark.parametrize(("paused", "status"), [(True, "interrupted"), (False, "idle")])
    async def test_status_after_an_update_of_the_state(
        self, store: CoordinationStore, me: int, paused: bool, status: str
    ) -> None:
        await store.finish(await running(store, me, assistant_id="a"), FAILED)
        update = await running(store, me, assistant_id="a", kind="op")
        await store.finish(update, Outcome(RunStatus.success, values={"a": 1}, paused=paused))
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.error) == (status, None)
        assert await search(store, status=status) == ["t"]
        other = await running(store, me, assistant_id="a", kind="op")  # without a new state
        await store.finish(other, SUCCESS)
        await store.finish(await running(store, me, assistant_id="a", kind="op"), FAILED)
        assert await search(store, status=status) == ["t"]

    async def test_in_every_order(self, store: CoordinationStore, me: int, clock: StoreClock) -> None:
        for name in ("b", "c", "a"):
            await made(store, name)
            clock.advance(1)
        own = await running(store, me, "c")
        clock.advance(1)
        await store.save(own, {})
        clock.advance(1)
        await store.patch_thread("b", ThreadPatch({}), user_id=None)
        orders: dict[str, list[str]] = {
            "thread_id": ["a", "b", "c"],
            "created_at": ["b", "c", "a"],
            "updated_at": ["a", "c", "b"],
            "state_updated_at": ["b", "a", "c"],
            "status": ["c", "a", "b"],
        }
        for by, order in orders.items():
            assert await search(store, sort_by=by, sort_order="asc") == order, by
            assert await search(store, sort_by=by, sort_order="desc") == order[::-1], by
        assert await search(store) == orders["updated_at"][::-1]

    async def test_by_ids(self, store: CoordinationStore) -> None:
        for name in "abc":
            await made(store, name, temporary=name == "c")
        assert await search(store, ids=("c", "a", "missing"), sort_by="thread_id", sort_order="asc") == [
            "a",
            "c",
        ]
        assert await search(store, ids=()) == []

    async def test_temporary_threads_are_not_listed(self, store: CoordinationStore) -> None:
        await made(store, "kept")
        await made(store, "passing", temporary=True, ttl_ms=5000)
        assert await search(store) == ["kept"]
        assert await store.count_threads(ThreadQuery(), user_id=None) == 1
        assert sorted(await search(store, temporary=True)) == ["kept", "passing"]

    async def test_search_returns_only_the_users_own_threads(self, store: CoordinationStore) -> None:
        for user in ("u", "v", None):
            await made(store, f"of-{user}", user_id=user, metadata={"k": 1})
        every = [("of-u", "u"), ("of-v", "v"), ("of-None", None)]
        for name, user in every:
            if user is not None:
                assert await search(store, user, metadata={"k": 1}) == [name]
                assert await search(store, user, ids=tuple(name for name, _ in every)) == [name]
                assert await store.count_threads(ThreadQuery(), user_id=user) == 1
        assert await search(store, "unknown") == []
        assert await store.count_threads(ThreadQuery(), user_id=None) == 3

    async def test_a_damaged_thread_does_not_hide_the_others(self, store: CoordinationStore) -> None:
        await made(store, "sound")
        await made(store, "damaged")
        sql_of(store)("UPDATE threads SET metadata = '{' WHERE thread_id = 'damaged'")
        assert await search(store) == ["sound"]
        assert await search(store, metadata={"a": 1}) == []

    async def test_of_a_foreign_thread_and_its_run_nothing_is_read(
        self, store: CoordinationStore, me: int
    ) -> None:
        """Rows that cannot be parsed show whether the store reads them: only reads of their own user fail."""
        run = await running(store, me, "t", user_id="u")
        execute = sql_of(store)
        execute("UPDATE threads SET \"values\" = '{' WHERE thread_id = 't'")
        execute("UPDATE runs SET kwargs = '{' WHERE run_id = ?", run.run_id)
        for user in ("u", None):
            with pytest.raises(ValueError, match="Expecting"):
                await store.thread("t", user_id=user)
            with pytest.raises(ValueError, match="Expecting"):
                await store.row(run.run_id, user_id=user)
        assert await store.thread("t", user_id="v") is None
        assert await store.row(run.run_id, user_id="v") is None
        with pytest.raises(ThreadNotFound):
            await store.patch_thread("t", ThreadPatch({"a": 1}), user_id="v")
        for existing_ok in (False, True):
            with pytest.raises(ThreadExists):
                await made(store, "t", user_id="v", existing_ok=existing_ok)

    async def test_page_ends_at_its_bytes_after_one_thread_at_least(self, store: CoordinationStore) -> None:
        for name, size in (("a", 10), ("b", 1000), ("c", 1000), ("d", 10), ("e", 10)):
            await made(store, name, metadata={"text": "x" * size})
        by_id: Any = {"sort_by": "thread_id", "sort_order": "asc"}

        async def page(max_bytes: int | None, offset: int, limit: int = 10) -> tuple[list[str], bool]:
            query = ThreadQuery(max_bytes=max_bytes, offset=offset, limit=limit, **by_id)
            rows = await store.threads(query, user_id=None)
            return [row.thread_id for row in rows], rows.cut

        assert await page(None, 0) == (["a", "b", "c", "d", "e"], False)
        assert await page(500, 0) == (["a"], True)
        assert await page(500, 1) == (["b"], True)
        assert await page(500, 3) == (["d", "e"], False)
        assert await page(1500, 0) == (["a", "b"], True)
        assert await page(1500, 0, limit=2) == (["a", "b"], False)
        assert await page(5, 0) == (["a"], True)
        assert await page(5, 5) == ([], False)


class History(StoreCase):
    async def shown(self, store: CoordinationStore, run_id: str) -> tuple[str, bool] | None:
        """Returns (shown status, cancelling), or None if the run is hidden. Asserts that all reads agree."""
        row = await store.run(run_id, thread_id=None, user_id=None)
        raw = await row_of(store, run_id)
        assert (row is None) == raw.rolled_back
        listing = {row.run_id: row for row in await listed(store, raw.thread_id)}
        assert (run_id in listing) == (row is not None)
        if row is None:
            return None
        assert listing[run_id] == row == raw
        for status in RunStatus:
            same = await listed(store, raw.thread_id, statuses=(status.value,))
            assert (run_id in [one.run_id for one in same]) == (status is row.shown_status)
            flying = await inflight(store, status.value)
            assert (run_id in flying) == (status is row.shown_status and (raw.open or raw.holds_thread))
        return row.shown_status.value, row.cancelling

    async def test_a_run_that_ends_by_itself(self, store: CoordinationStore, me: int) -> None:
        own = await holding(store, me)
        queued = await waiting(store, me)
        assert await self.shown(store, own.run_id) == ("pending", False)
        assert await self.shown(store, queued) == ("pending", False)
        await store.start(own, {})
        assert await self.shown(store, own.run_id) == ("running", False)
        await store.finish(own, FAILED, hold=True)
        assert await self.shown(store, own.run_id) == ("running", False), "its task has not stopped"
        await store.settle(own, FAILED)
        assert await self.shown(store, own.run_id) == ("error", False)

    async def test_a_run_that_is_cancelled(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        queued = await waiting(store, me)
        await cancel(store, queued)
        assert await self.shown(store, queued) == ("interrupted", False)
        await cancel(store, own.run_id)
        assert await self.shown(store, own.run_id) == ("running", True)
        await store.finish(own, ENDED)
        assert await self.shown(store, own.run_id) == ("interrupted", False)

    async def test_a_run_that_is_rolled_back(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        queued = await waiting(store, me)
        await cancel(store, queued, CancelAction.rollback)
        assert await self.shown(store, queued) is None
        await cancel(store, own.run_id, CancelAction.rollback)
        await store.finish(own, ENDED)
        assert await self.shown(store, own.run_id) == ("running", True)
        await store.settle(own, ENDED, "done")
        assert await self.shown(store, own.run_id) is None

    async def test_a_rollback_that_failed(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        await cancel(store, own.run_id, CancelAction.rollback)
        await store.settle(own, Outcome(RunStatus.error, "Rollback failed"), "failed")
        assert await self.shown(store, own.run_id) == ("error", False)

    async def test_a_run_beside_the_slot(self, store: CoordinationStore, me: int) -> None:
        await running(store, me)
        run = new_run()
        beside = await store.insert(run, epoch=me)
        assert (beside.fence, await self.shown(store, run.run_id)) == (0, ("pending", False))
        await cancel(store, run.run_id)
        assert await self.shown(store, run.run_id) == ("running", True)

    async def test_a_run_is_found_on_its_thread(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me, user_id="u")
        row = await row_of(store, own.run_id)
        assert await store.run(own.run_id, thread_id="t", user_id="u") == row
        assert await store.run(own.run_id, thread_id="other", user_id="u") is None
        assert await store.run("missing", thread_id=None, user_id=None) is None

    async def test_page_of_runs_ends_at_its_bytes_and_omits_columns(
        self, store: CoordinationStore, me: int
    ) -> None:
        large = {"text": "x" * 1000}
        own = await running(store, me, kwargs=large)
        await store.save(own, {"n": 1})
        await store.finish(own, SUCCESS._replace(result=large, values={"n": 2}))
        others = [await admitted(store, me, kwargs=large, multitask_strategy="enqueue") for _ in range(2)]
        newest_first = [*(run.run_id for run in reversed(others)), own.run_id]
        whole = await listed(store)
        assert [run.run_id for run in whole] == newest_first
        assert not whole.cut
        assert (whole[2].kwargs, whole[2].result) == (large, large)
        cut = await listed(store, max_bytes=1500)
        assert ([run.run_id for run in cut], cut.cut) == (newest_first[:1], True)
        short: Any = await listed(
            store, max_bytes=1500, without=frozenset({"kwargs", "result", "rollback_ref"})
        )
        assert ([run.run_id for run in short], short.cut) == (newest_first, False)
        assert [(run.kwargs, run.result, run.rollback_ref) for run in short] == [({}, None, None)] * 3
        assert [run.status for run in short] == [run.status for run in whole]
        assert await listed(store, max_bytes=1500, offset=3) == []

    async def test_operations_are_not_in_it(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me, kind="op")
        assert await store.run(own.run_id, thread_id=None, user_id=None) is None
        assert (await listed(store), await inflight(store)) == ([], [])
        await store.finish(own, SUCCESS)
        with pytest.raises(RunNotFound):
            await store.delete_run(own.run_id, thread_id=None, user_id=None)

    async def test_a_run_that_has_settled_can_be_deleted(self, store: CoordinationStore, me: int) -> None:
        own = await running(store, me)
        queued = await waiting(store, me)
        for run_id in (own.run_id, queued):
            with pytest.raises(ConflictError) as refused:
                await store.delete_run(run_id, thread_id="t", user_id=None)
            assert refused.value.active_run_id == run_id
        await cancel(store, own.run_id)
        with pytest.raises(ConflictError):
            await store.delete_run(own.run_id, thread_id="t", user_id=None)
        await store.finish(own, ENDED)
        row = await row_of(store, own.run_id)
        assert await store.delete_run(own.run_id, thread_id="t", user_id=None) == row
        assert await store.row(own.run_id) is None
        assert await store.transitions(own.run_id) == []
        with pytest.raises(RunNotFound):
            await store.delete_run(own.run_id, thread_id="t", user_id=None)


class ExistingThreads(StoreCase):
    """`thread_must_exist`: the admission checks for the thread in its transaction."""

    def run(self, **fields: Any) -> AdmissionRequest:
        return new_run(**fields, thread_must_exist=True)

    async def test_no_thread_is_made(self, store: CoordinationStore, me: int) -> None:
        with pytest.raises(ThreadNotFound):
            await store.admit(self.run(), epoch=me, limits=Limits())
        assert await store.thread("t") is None
        await made(store)
        run = self.run()
        admission = await store.admit(run, epoch=me, limits=Limits())
        assert admission.holds
        again = await store.admit(run, epoch=me, limits=Limits())
        assert again.existing is not None, "the same run again"

    async def test_a_foreign_thread_looks_missing(self, store: CoordinationStore, me: int) -> None:
        await made(store, user_id="u")
        messages = set[str]()
        for thread_id in ("t", "missing"):
            with pytest.raises(ThreadNotFound) as error:
                await store.admit(self.run(thread_id=thread_id, user_id="v"), epoch=me, limits=Limits())
            messages.add(str(error.value).replace("missing", "t"))
        assert len(messages) == 1

    async def test_a_deleted_thread_is_gone(self, store: CoordinationStore, me: int) -> None:
        await made(store)
        await store.delete_thread(await running(store, me, kind="op"))
        with pytest.raises(ThreadNotFound):
            await store.admit(self.run(), epoch=me, limits=Limits())
