from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator.event_log import Appended, EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.event_logs.redis import RedisEventLog
from coordinator.event_logs.store import StoreEventLog
from coordinator.notifiers.local import LocalNotifier
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance import EVENT_LOG, Check
from coordinator.testing.conformance.event_logs import entry, ids
from stores.events import EventStore
from stores.sqlite import SQLiteStore
from tests.support.builders import fence_epoch, new_worker, running
from tests.support.inside import backlog_of
from tests.support.linked import linked
from tests.support.logged_runs import logged_runs
from tests.support.postgres import Database
from tests.support.teams import keys_without_ttl
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def in_redis(server: ValkeyServer, namespace: str) -> AsyncGenerator[RedisEventLog]:
    async with linked(server.url, namespace, budget=2.0) as link:
        yield RedisEventLog(link, ttl=60)


@pytest.fixture(params=["local", "redis", "sqlite", "sqlite elsewhere", "postgres elsewhere"])
async def log(  # noqa: PLR0917 - pytest hands fixtures over by name
    request: pytest.FixtureRequest,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[EventLog]:
    """`elsewhere`: what one worker appends is read on another one."""
    where, _, elsewhere = request.param.partition(" ")
    if where == "local":
        yield LocalEventLog()
    elif where in ("sqlite", "postgres"):
        monkeypatch.setattr("coordinator.event_logs.store.LAZY", 0.01)
        async with AsyncExitStack() as stack:
            if where == "postgres":
                store = await stack.enter_async_context(shared_postgres.store())
            else:
                store = await stack.enter_async_context(on_sqlite(tmp_path / "runs.db"))
            yield await stack.enter_async_context(logged_runs(store, elsewhere=bool(elsewhere)))
    else:
        async with in_redis(shared_valkey, namespace) as made:
            yield made
        assert not keys_without_ttl(shared_valkey, namespace)


@pytest.mark.parametrize("check", EVENT_LOG, ids=str)
async def test_event_log(log: EventLog, check: Check[EventLog]) -> None:
    await check(log)


@asynccontextmanager
async def on_sqlite(path: Path) -> AsyncGenerator[SQLiteStore]:
    store = SQLiteStore(path, synchronous="NORMAL")
    await store.open()
    yield store
    await store.aclose()


async def test_append_of_a_worker_that_lost_its_run_returns_stale(tmp_path: Path) -> None:
    async with on_sqlite(tmp_path / "runs.db") as store:
        me, peer = await store.register(new_worker()), await store.register(new_worker())
        own = await running(store, me)
        log = StoreEventLog(store, LocalNotifier(), ttl=60)
        log.close("t", own.run_id, entry(own.fence, 1))
        await wait_until(lambda: not backlog_of(log), description="it is written")
        await fence_epoch(store, me, by=peer)
        assert await log.append("t", own.run_id, entry(own.fence, 2)) is Appended.done
        await wait_until(lambda: not backlog_of(log), description="it is refused")
        assert await log.append("t", own.run_id, entry(own.fence, 3)) is Appended.stale
        await log.aclose()
        assert await ids(StoreEventLog(store, LocalNotifier(), ttl=60), own.run_id) == [f"{own.fence}-1"]


async def test_what_waits_for_the_store_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events over the bound are refused until half is written. The sender keeps them until then."""
    monkeypatch.setattr("coordinator.event_logs.backlog.MAX_BYTES", 10_000)
    async with on_sqlite(tmp_path / "runs.db") as store:
        own = await running(store, await store.register(new_worker()))
        log = StoreEventLog(store, LocalNotifier(), ttl=60)
        text = '"' + "x" * 998 + '"'
        answers = [
            await log.append("t", own.run_id, entry(own.fence, number, text)) for number in range(1, 21)
        ]
        taken = answers.index(Appended.lost)
        assert 7 <= taken <= 10
        assert set(answers[taken:]) == {Appended.lost}
        async with asyncio.timeout(10):
            await log.returned()
        assert await log.append("t", own.run_id, entry(own.fence, taken + 1, text)) is Appended.done
        await log.aclose()
        stored = await ids(StoreEventLog(store, LocalNotifier(), ttl=60), own.run_id)
        assert stored == [f"{own.fence}-{number}" for number in range(1, taken + 2)]


async def test_event_that_waits_for_a_batch_is_written_with_the_end_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits without blocking the event loop."""
    monkeypatch.setattr("coordinator.event_logs.store.LAZY", 3600)
    async with on_sqlite(tmp_path / "runs.db") as store:
        own = await running(store, await store.register(new_worker()))
        log = StoreEventLog(store, LocalNotifier(), ttl=60)
        await log.append("t", own.run_id, entry(own.fence, 1))
        await asyncio.sleep(0.01)  # the writer has begun to wait
        assert backlog_of(log)
        log.close("t", own.run_id, entry(own.fence, 2))
        async with asyncio.timeout(10):
            await log.flushed("t", own.run_id)
        stored = await ids(StoreEventLog(store, LocalNotifier(), ttl=60), own.run_id)
        assert stored == [f"{own.fence}-{number}" for number in (1, 2)]
        await log.aclose()


async def test_events_of_a_run_without_followers_wait_although_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.event_logs.store.LAZY", 3600)
    async with on_sqlite(tmp_path / "runs.db") as store:
        epoch = await store.register(new_worker())
        own, other = await running(store, epoch), await running(store, epoch, "other")
        log = StoreEventLog(store, LocalNotifier(), ttl=60)
        for number in (1, 2, 3):
            await log.append("t", own.run_id, entry(own.fence, number))
        log.close("other", other.run_id, entry(other.fence, 1))
        async with asyncio.timeout(10):
            await log.flushed("other", other.run_id)
        assert await ids(StoreEventLog(store, LocalNotifier(), ttl=60), own.run_id) == []
        await log.aclose()


async def test_version_of_the_events_changes_only_when_another_store_has_written(tmp_path: Path) -> None:
    """Followers read no log while it stays the same."""
    async with on_sqlite(tmp_path / "runs.db") as one, on_sqlite(tmp_path / "runs.db") as other:
        epoch = await other.register(new_worker())
        before = one.events_version()
        assert before is not None
        assert one.events_version() == before
        await running(other, epoch)
        assert one.events_version() not in (before, None)


class Announcing(LocalNotifier):
    """As the notifier of a store or of Redis that is connected."""

    @property
    def announces(self) -> bool:
        return True


class Marked:
    """The followers' side of a store: records the marks."""

    def __init__(self) -> None:
        self.marks: list[list[str]] = []

    async def follow_runs(self, run_ids: list[str], *, seconds: float, logs: bool) -> None:
        self.marks.append(run_ids)


@pytest.fixture
def marked() -> Marked:
    return Marked()


@pytest.fixture
def followable(marked: Marked, monkeypatch: pytest.MonkeyPatch) -> StoreEventLog:
    """Rests so long that only its followers wake it."""
    for name in ("LONGEST_REST", "FOLLOWED"):
        monkeypatch.setattr(f"coordinator.event_logs.store.{name}", 3600.0)
    return StoreEventLog(cast("EventStore", marked), Announcing(), ttl=60)


def watchers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "watching event logs"]


async def test_followed_runs_are_watched_once_until_their_last_follower_leaves(
    followable: StoreEventLog, marked: Marked
) -> None:
    followers = [AsyncExitStack() for _ in range(3)]
    for follower in followers:
        await follower.enter_async_context(followable.followed("t", "r"))
        assert len(watchers()) == 1
    await wait_until(lambda: marked.marks, description="the store has the mark")
    for number, follower in enumerate(followers):
        assert len(watchers()) == 1
        async with followable.followed("t", f"other {number}"):
            await wait_until(lambda n=number: len(marked.marks) == n + 2, description="it is marked too")
        await follower.aclose()
    await wait_until(lambda: not watchers(), description="nothing is watched any more")
    assert marked.marks == [["r"], ["other 0"], ["other 1"], ["other 2"]]


async def test_closed_log_watches_for_no_follower(followable: StoreEventLog, marked: Marked) -> None:
    await followable.aclose()
    async with followable.followed("t", "r"):
        assert not watchers()
    assert not marked.marks


async def test_the_slot_refuses_an_older_fence_before_the_new_one_has_emitted(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with in_redis(shared_valkey, namespace) as log:
        await log.append("t", "old", entry(4, 1))
        shared_valkey.command("SET", f"{namespace}:{{t:t}}:holder", "5 new", "PX", "60000")
        assert await log.append("t", "old", entry(4, 2)) is Appended.stale
        assert await log.append("t", "beside", entry(0, 1)) is Appended.done
        assert await ids(log, "old") == ["4-1"]
        shared_valkey.command("DEL", f"{namespace}:{{t:t}}:holder")


async def test_what_others_wrote_into_the_stream_cannot_be_read(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with in_redis(shared_valkey, namespace) as log:
        key = f"{namespace}:{{t:t}}:log:r"
        shared_valkey.command("XADD", key, f"{2**64 - 1}-1", "custom", "{}")
        shared_valkey.command("PEXPIRE", key, "60000")
        assert await log.read("t", "r", None, 10) is None
        assert await log.append("t", "r", entry(1, 1)) is Appended.stale


async def test_the_local_logs_of_a_process_are_bounded_together() -> None:
    log = LocalEventLog(memory=10_000)
    for number in range(1, 11):
        for run in ("a", "b", "c"):
            await log.append("t", run, entry(1, number, '"' + "x" * 200 + '"'))
    await log.append("t", "d", entry(1, 1, '"' + "x" * 9_000 + '"'))
    assert [await ids(log, run) for run in ("a", "b", "c", "d")] == [[], [], [], ["1-1"]]


async def test_trimmed_events_of_a_local_log_leave_the_memory_to_others() -> None:
    log = LocalEventLog(memory=10_000)
    await log.append("t", "a", entry(1, 1))
    for number in range(1, 101):
        event = entry(1, number, '"' + "x" * 200 + '"')
        await log.append("t", "b", event._replace(floor=event.id))
    assert [await ids(log, run) for run in ("a", "b")] == [["1-1"], ["1-100"]]
