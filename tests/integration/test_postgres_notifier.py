"""The notifier on a server that goes away, on a silent network, and with a full queue of notifications."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from coordinator import Settings
from coordinator.bootstrap import open_observer
from coordinator.notifier import Connectivity
from coordinator.notifiers.postgres import PostgresNotifier
from coordinator.servers.postgres import PostgresServer, find_wheel
from coordinator.testing.conformance.notifiers import CANCEL, CLAIM, SETTLED, Worker
from stores.postgres import Options
from tests.support.inside import assembly_of, watched_by
from tests.support.linked import until
from tests.support.postgres import Database
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def notified(url: str, namespace: str) -> AsyncGenerator[Worker]:
    notifier = PostgresNotifier(url, Options(), namespace=namespace, ping=0.2)
    try:
        yield Worker(notifier)
    finally:
        await notifier.aclose()


@pytest.fixture
def own_postgres() -> Generator[PostgresServer]:
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture
async def way(shared_postgres: Database, no_task_left: None) -> AsyncGenerator[tuple[Proxy, str]]:
    """A network of the test's own, and the server's URL through it."""
    async with shared_postgres.proxied() as way:
        yield way


async def test_very_many_threads_are_freed_in_one_turn(shared_postgres: Database, namespace: str) -> None:
    async with (
        notified(shared_postgres.url, namespace) as one,
        notified(shared_postgres.url, namespace) as other,
        AsyncExitStack() as stack,
    ):
        await one.start(1)
        threads = [f"thread {number}" for number in range(2000)]
        bells = [await stack.enter_async_context(one.notifier.watch(thread)) for thread in threads]
        for thread in threads:
            other.notifier.notify_thread(thread, SETTLED)
        assert all(await asyncio.gather(*(bell.wait(5) for bell in bells)))


async def test_to_watch_needs_no_round_trip_once_it_listens(way: tuple[Proxy, str], namespace: str) -> None:
    proxy, url = way
    async with notified(url, namespace) as worker:
        await worker.start(1)
        requests = proxy.requests
        async with AsyncExitStack() as stack:
            for number in range(100):
                await stack.enter_async_context(worker.notifier.watch(f"t{number}"))
        assert proxy.requests - requests <= 1  # a ping may fall into it


async def test_hint_reaches_followers_of_its_own_process_without_the_server(
    way: tuple[Proxy, str], namespace: str
) -> None:
    proxy, url = way
    async with notified(url, namespace) as worker:
        await worker.start(1)
        async with worker.notifier.watch("t", "r") as follower, worker.notifier.watch("t") as waiter:
            proxy.black_hole()
            worker.notifier.hint("t", "r", (1, 1))
            assert await follower.wait(0)
            assert not await waiter.wait(0), "it follows no log"


async def test_thread_that_is_watched_no_more_is_forgotten(shared_postgres: Database, namespace: str) -> None:
    async with notified(shared_postgres.url, namespace) as worker:
        await worker.start(1)
        assert isinstance(worker.notifier, PostgresNotifier)
        async with worker.notifier.watch("t"):
            async with worker.notifier.watch("t", "r"), worker.notifier.watch("u"):
                assert len(watched_by(worker.notifier)) == 2
            assert len(watched_by(worker.notifier)) == 1
        assert watched_by(worker.notifier) == {}


async def test_a_black_hole_is_found_and_left(way: tuple[Proxy, str], namespace: str) -> None:
    proxy, url = way
    async with notified(url, namespace) as worker:
        await worker.start(1)
        proxy.black_hole()
        assert await until(worker, Connectivity.connecting) < 3
        await until(worker, Connectivity.down)
        resyncs = worker.resyncs
        worker.notifier.notify_worker(2, CANCEL)
        async with worker.notifier.watch("t") as wakeup:
            assert not await wakeup.wait(0)
        proxy.restore()
        await until(worker, Connectivity.connected)
        assert worker.resyncs == resyncs + 1


async def test_connectivity_stays_down_between_attempts_that_fail(
    way: tuple[Proxy, str], namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each change is reported once, and logged once."""
    proxy, url = way
    async with notified(url, namespace) as worker:
        await worker.start(1)
        monkeypatch.setattr("stores.postgres.channels._CONNECT_WITHIN", 0.2)
        attempts = proxy.connections
        proxy.black_hole()
        proxy.reset()
        await wait_until(lambda: proxy.connections >= attempts + 4, description="attempts", timeout=20)
        assert worker.connectivities == [Connectivity.connected, Connectivity.connecting, Connectivity.down]
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
        proxy.restore()
        await until(worker, Connectivity.connected)
        assert worker.connectivities[3:] == [Connectivity.connected]


async def test_connectivity_is_down_where_nothing_sent_arrives(
    shared_postgres: Database,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As behind a pooler in transaction mode: every attempt connects, and none of them listens."""
    proofs: list[str] = []

    async def swallow(cx: asyncpg.Connection[Any], channels: list[str], payloads: list[str]) -> None:
        proofs.extend(payloads)

    monkeypatch.setattr("stores.postgres.channels._notify", swallow)
    monkeypatch.setattr("stores.postgres.channels.ANSWER_WITHIN", 0.1)
    async with notified(shared_postgres.url, namespace) as worker:
        await worker.notifier.start(1, worker.signals.append, lambda: None, worker.connectivities.append)
        await wait_until(lambda: len(proofs) >= 4, description="attempts", timeout=20)
        assert worker.connectivities == [Connectivity.down]
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_reset_connection_is_made_again_and_all_is_read_again(
    way: tuple[Proxy, str], namespace: str, shared_postgres: Database
) -> None:
    proxy, url = way
    async with notified(url, namespace) as worker, notified(shared_postgres.url, namespace) as other:
        await worker.start(1)
        async with worker.notifier.watch("t") as wakeup:
            proxy.reset()
            await wait_until(lambda: worker.resyncs == 2, description="the second resync")
            assert await wakeup.wait(5), "a watcher looks again too"
            other.notifier.notify_thread("t", SETTLED)
            other.notifier.notify_worker(1, CLAIM)
            assert await wakeup.wait(5)
        await wait_until(lambda: worker.signals == [CLAIM], description="what came afterwards")
        assert worker.connectivities[0] is worker.connectivities[-1] is Connectivity.connected


async def test_what_is_sent_while_there_is_no_connection_leaves_with_the_next_one(
    way: tuple[Proxy, str], namespace: str, shared_postgres: Database
) -> None:
    proxy, url = way
    async with notified(url, namespace) as worker, notified(shared_postgres.url, namespace) as other:
        await worker.start(1)
        await other.start(2)
        proxy.reset()
        worker.notifier.notify_worker(2, CANCEL)
        await wait_until(lambda: CANCEL in other.signals, description="the signal")


async def test_the_server_away_and_back(own_postgres: PostgresServer, namespace: str) -> None:
    async with notified(own_postgres.url(), namespace) as worker:
        await worker.start(1)
        own_postgres.stop("immediate")
        await until(worker, Connectivity.down)
        began = time.monotonic()
        async with worker.notifier.watch("t") as wakeup:
            assert time.monotonic() - began < 0.5
            worker.notifier.notify_thread("t", SETTLED)
            assert await wakeup.wait(1), "a watcher in the same process is woken all the same"
        own_postgres.start()
        await until(worker, Connectivity.connected, timeout=10)


async def test_one_schemas_hints_are_not_anothers(shared_postgres: Database) -> None:
    async with AsyncExitStack() as stack:
        team: list[Worker] = []
        for schema in ("one", "two"):
            notifier = PostgresNotifier(shared_postgres.url, Options(schema=schema))
            stack.push_async_callback(notifier.aclose)
            team.append(await Worker(notifier).start(1))
        sender = PostgresNotifier(shared_postgres.url, Options(schema="two"))
        stack.push_async_callback(sender.aclose)
        sender.notify_worker(1, CANCEL)
        await wait_until(lambda: team[1].signals, description="the signal")
        assert (team[0].signals, team[1].signals) == ([], [CANCEL])


async def test_what_was_sent_has_left_at_the_end(shared_postgres: Database, namespace: str) -> None:
    """A command that cancels is over in a moment."""
    async with notified(shared_postgres.url, namespace) as worker:
        await worker.start(1)
        async with notified(shared_postgres.url, namespace) as brief:
            brief.notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: worker.signals == [CANCEL], description="the signal")


async def test_one_setting_chooses_it(shared_postgres: Database) -> None:
    async with shared_postgres.worker() as (url, schema):
        for chosen in (True, False):
            settings = Settings(store=url, postgres_schema=schema, postgres_notify=chosen)
            async with open_observer(settings) as observer:
                kind = type(assembly_of(observer.manager).shared.notifier).__name__
                assert kind == ("PostgresNotifier" if chosen else "LocalNotifier")


async def test_a_queue_that_was_full_is_used_again_when_its_reader_has_gone(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader listens, and stays in a transaction. That is logged, and no other step is needed."""
    with PostgresServer(durable=False, settings=SMALL_QUEUE, programs=find_wheel()) as server:
        database = Database(server.url())
        async with (
            notified(server.url(), namespace) as one,
            notified(server.url(), namespace) as other,
            database.connection() as sender,
        ):
            await one.start(1)
            await other.start(2)
            async with database.connection() as reader:
                await reader.execute("LISTEN anything")
                await reader.execute("BEGIN")
                await reader.fetchval("SELECT 1")
                with pytest.raises(asyncpg.ProgramLimitExceededError):
                    await fill_the_queue(sender)
                one.notifier.notify_worker(2, CANCEL)
                await wait_until(lambda: "queue of notifications" in caplog.text, description="it is logged")
                assert "keeps a transaction open" in caplog.text
            await wait_until(
                lambda: one.notifier.connectivity is Connectivity.connected, description="it is connected"
            )
            other.signals.clear()
            one.notifier.notify_worker(2, CLAIM)
            await wait_until(lambda: CLAIM in other.signals, description="the signal is received")


SMALL_QUEUE = {"max_notify_queue_pages": "64"}
"""Which versions before 17 do not know."""


async def fill_the_queue(sender: asyncpg.Connection[Any]) -> None:
    while True:
        await sender.execute("SELECT pg_notify('anything', repeat('x', 7900))")
