"""A listing may read every thread. No other call waits for it, and it ends with its store."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from stores.catalogue import NewThread, ThreadQuery
from stores.errors import StoreUnavailable
from stores.sql.sqlite import threads
from stores.sqlite import SQLiteStore
from tests.support.builders import new_worker
from tests.support.waiting import wait_until


async def test_a_tick_does_not_wait_for_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    count_threads = threads.count_threads

    def slow(cx: sqlite3.Connection, query: ThreadQuery, user_id: str | None) -> int:
        begun.set()
        assert may_end.wait(20)
        return count_threads(cx, query, user_id)

    monkeypatch.setattr(threads, "count_threads", slow)
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    me = await store.register(new_worker())
    await store.create_thread(NewThread("t"))
    listing = asyncio.ensure_future(store.count_threads(ThreadQuery(), user_id=None))
    await wait_until(begun.is_set, description="the listing is under way")
    async with asyncio.timeout(10):
        assert (await store.tick(me)).overdue == ()
        assert await store.thread("t") is not None
    assert not listing.done()
    may_end.set()
    assert await listing == 1
    await store.aclose()


async def test_first_listings_at_once_share_a_connection_that_closes_with_the_store(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = SQLiteStore(tmp_path / "runs.db")
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.threads(ThreadQuery(), user_id=None)
    await store.open()
    opened = threading.active_count()
    await asyncio.gather(*(store.threads(ThreadQuery(), user_id=None) for _ in range(5)))
    assert threading.active_count() == opened + 1
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.threads(ThreadQuery(), user_id=None)
    await wait_until(lambda: set(threading.enumerate()) <= before, description="no thread is left")
