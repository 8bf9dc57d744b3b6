"""Several servers in one URL, some of which are silent, and what the network forgets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pytest

from coordinator.notifier import Connectivity, Signal
from coordinator.notifiers.postgres import PostgresNotifier
from coordinator.servers.process import free_port
from stores.errors import StoreRefused, StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.postgres.address import Address
from stores.postgres.hosts import SILENT_WITHIN
from stores.rows import Outcome
from stores.states import CancelAction, RunStatus
from stores.tasks import begin_soon
from tests.support.builders import admitted, cancel, new_worker, running
from tests.support.inside_stores import after_examinations_in
from tests.support.postgres import Database
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


def through(url: str, *ports: int | None) -> str:
    parts = urlsplit(url)
    who, at, server = parts.netloc.rpartition("@")
    hosts = ",".join(server if port is None else f"127.0.0.1:{port}" for port in ports)
    return urlunsplit(parts._replace(netloc=f"{who}{at}{hosts}"))


class Silent(NamedTuple):
    """`url` names `silent` (each accepts and never answers) before the server of the tests."""

    url: str
    schema: str
    silent: tuple[Proxy, ...]

    @property
    def attempts(self) -> int:
        return sum(proxy.connections for proxy in self.silent)


@asynccontextmanager
async def behind_silent_hosts(database: Database, count: int) -> AsyncGenerator[Silent]:
    async with database.worker() as (url, schema), AsyncExitStack() as stack:
        server = urlsplit(url)
        silent: list[Proxy] = []
        for _ in range(count):
            proxy = await stack.enter_async_context(Proxy(server.hostname or "", server.port or 5432))
            proxy.black_hole()
            silent.append(proxy)
        yield Silent(through(url, *(proxy.port for proxy in silent), None), schema, tuple(silent))


@pytest.mark.parametrize("count", [1, 2])
async def test_silent_hosts_that_are_named_first_delay_the_start_once(
    shared_postgres: Database, count: int
) -> None:
    async with behind_silent_hosts(shared_postgres, count) as hosts:
        store = PostgresStore(hosts.url, Options(schema=hosts.schema), migrate=False)
        try:
            async with asyncio.timeout(10):
                await store.open()
                epoch = await store.register(new_worker())
            attempts = hosts.attempts
            heart = store.heart()
            try:
                assert await asyncio.to_thread(heart.beat, epoch)
                assert (await admitted(store, epoch)).holds
                await store.tick(epoch)
            finally:
                await asyncio.to_thread(heart.close)
            assert hosts.attempts == attempts, "the host that answered comes first from then on"
        finally:
            await store.aclose()


async def test_hints_find_the_host_that_answers(shared_postgres: Database) -> None:
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        notifier = PostgresNotifier(hosts.url, Options(schema=hosts.schema))
        states = list[Connectivity]()
        try:
            await notifier.start(1, ignore, lambda: None, states.append)
            await wait_until(lambda: Connectivity.connected in states, description="it listens", timeout=10)
        finally:
            await notifier.aclose()


def ignore(signal: Signal) -> None:
    del signal


async def test_host_that_falls_silent_is_left_for_the_next(shared_postgres: Database) -> None:
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        (first,) = hosts.silent
        first.restore()
        store = PostgresStore(hosts.url, Options(schema=hosts.schema), migrate=False)
        try:
            await store.open()
            heart = store.heart()
            try:
                epoch = await store.register(new_worker())
                assert await asyncio.to_thread(heart.beat, epoch)
                assert first.connections
                first.black_hole()
                async with asyncio.timeout(15):
                    assert await asyncio.to_thread(heart.beat, epoch)
                    assert (await admitted(store, epoch)).holds
            finally:
                await asyncio.to_thread(heart.close)
        finally:
            await store.aclose()


async def test_heart_waits_for_a_silent_server_no_longer_than_leases_have_room_for(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others may wait longer for a connection."""
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        (proxy,) = hosts.silent
        proxy.restore()
        url = through(hosts.url, proxy.port)
        store = PostgresStore(url, Options(schema=hosts.schema), migrate=False)
        await store.open()
        heart = store.heart()
        try:
            epoch = await store.register(new_worker())
            monkeypatch.setattr("stores.postgres.connections.CONNECT_WITHIN", 60.0)
            monkeypatch.setattr("stores.postgres.heart.CONNECT_WITHIN", 0.2)
            proxy.black_hole()
            async with asyncio.timeout(20):
                with pytest.raises(StoreUnavailable):
                    await asyncio.to_thread(heart.beat, epoch)
            proxy.restore()
            assert await asyncio.to_thread(heart.beat, epoch)
        finally:
            await asyncio.to_thread(heart.close)
            await store.aclose()


async def test_no_host_that_answers_is_reported_within_a_bound(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.postgres.store.CONNECT_WITHIN", 1.5)
    async with behind_silent_hosts(shared_postgres, 2) as hosts:
        url = through(hosts.url, *(proxy.port for proxy in hosts.silent))
        store = PostgresStore(url, Options(schema=hosts.schema), migrate=False)
        async with asyncio.timeout(15):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.open()


async def test_refusal_of_one_host_is_reported_before_the_silence_of_another(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.postgres.store.CONNECT_WITHIN", 1.5)
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        url = hosts.url.replace(":worker@", ":wrong@")
        assert url != hosts.url
        store = PostgresStore(url, Options(schema=hosts.schema), migrate=False)
        with pytest.raises(StoreRefused, match="does not let this role in"):
            await store.open()


async def test_host_that_refused_is_tried_again_while_another_is_silent(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server restarts in less time than an attempt at a silent one lasts."""
    monkeypatch.setattr("stores.postgres.store.CONNECT_WITHIN", 60.0)
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        server = urlsplit(shared_postgres.url)
        restarting = Proxy(server.hostname or "", server.port or 5432)
        restarting.port = free_port()
        url = through(hosts.url, restarting.port, hosts.silent[0].port)
        store = PostgresStore(url, Options(schema=hosts.schema), migrate=False)
        opening = asyncio.create_task(store.open())
        try:
            await wait_until(lambda: hosts.attempts, description="the first has refused")
            async with restarting, asyncio.timeout(15):
                await opening
                assert restarting.connections
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await store.aclose()


async def test_admission_without_a_server_is_refused_after_away_timeout(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as an attempt at a silent host lasts, and the batch that it was part of."""
    monkeypatch.setattr("stores.postgres.batches.BATCH_WITHIN", 60.0)
    monkeypatch.setattr("stores.postgres.connections.CONNECT_WITHIN", 60.0)
    async with behind_silent_hosts(shared_postgres, 1) as hosts:
        (proxy,) = hosts.silent
        proxy.restore()
        options = Options(schema=hosts.schema, away_timeout=1.0)
        store = PostgresStore(through(hosts.url, proxy.port, free_port()), options, migrate=False)
        try:
            await store.open()
            epoch = await store.register(new_worker())
            proxy.black_hole()
            proxy.reset()
            async with asyncio.timeout(15):
                with pytest.raises(StoreUnavailable):
                    await asyncio.gather(admitted(store, epoch, "a"), admitted(store, epoch, "b"))
        finally:
            await store.aclose()


# ---- what the network forgets --------------------------------------------------------------------------


@asynccontextmanager
async def forgotten(database: Database) -> AsyncGenerator[tuple[PostgresStore, int, Proxy]]:
    """A store, its epoch, and the network, which has forgotten all its connections after they were idle."""
    async with database.worker() as (url, schema), database.proxied(url) as (proxy, through_it):
        store = PostgresStore(through_it, Options(schema=schema), migrate=False)
        await store.open()
        try:
            epoch = await store.register(new_worker())
            own = await running(store, epoch, "ended")
            await asyncio.gather(*(store.tick(epoch) for _ in range(2)), *(store.row("r") for _ in range(10)))
            await cancel(store, own.run_id)
            known = proxy.connections
            await asyncio.sleep(IDLE)
            proxy.black_hole(upto=known)
            yield store, epoch, proxy
        finally:
            await store.aclose()


IDLE = 1.2  # s; past what a connection is used again without a question


async def test_cancel_after_the_network_forgot_the_connections_is_delayed_once(
    shared_postgres: Database,
) -> None:
    async with forgotten(shared_postgres) as (store, epoch, _):
        async with asyncio.timeout(15):
            first, second = await running(store, epoch, "a"), await running(store, epoch, "b")
            decision = await cancel(store, first.run_id)
        assert decision is not None
        assert decision.won, "made once: nothing was sent on a connection that is gone"
        async with asyncio.timeout(4):  # the other connections of its pool were forgotten as well
            await asyncio.gather(cancel(store, second.run_id), store.tick(epoch), store.standing("r"))


async def test_reads_after_the_network_forgot_the_connections_are_delayed_once(
    shared_postgres: Database,
) -> None:
    async with forgotten(shared_postgres) as (store, _, proxy):
        async with asyncio.timeout(15):
            await asyncio.gather(*(store.row("r") for _ in range(20)))
        known = proxy.connections
        await asyncio.gather(*(store.row("r") for _ in range(10)))
        assert proxy.connections == known


async def test_closing_does_not_wait_for_a_network_that_forgot_the_connections(
    shared_postgres: Database,
) -> None:
    async with forgotten(shared_postgres) as (store, _, _proxy), asyncio.timeout(10):
        await store.aclose()


@pytest.mark.parametrize("what", ["read", "cancel", "end", "undo"])
async def test_call_that_the_network_forgot_is_made_again_soon(shared_postgres: Database, what: str) -> None:
    """Connections that have answered a moment ago are used without a question."""
    async with shared_postgres.worker() as (url, schema), shared_postgres.proxied(url) as (proxy, through_it):
        store = PostgresStore(through_it, Options(schema=schema), migrate=False)
        await store.open()
        try:
            epoch = await store.register(new_worker())
            own = await running(store, epoch, "t")
            if what == "undo":
                await cancel(store, own.run_id, action=CancelAction.rollback)
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "read": lambda: store.row(own.run_id),
                "cancel": lambda: cancel(store, own.run_id),
                "end": lambda: store.finish(own, Outcome(RunStatus.success)),
                "undo": lambda: store.settle(own, Outcome(RunStatus.interrupted), "done"),
            }
            await store.row(own.run_id)
            proxy.black_hole(upto=proxy.connections)
            async with asyncio.timeout(9):  # two connections of a pool, one after the other
                assert await calls[what]() is not None
        finally:
            await store.aclose()


async def test_call_that_waits_for_a_lock_is_not_taken_for_one_that_was_forgotten(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.postgres.silence.SILENT_FOR", 0.1)
    monkeypatch.setattr("stores.postgres.silence._LOOK_EVERY", 0.1)
    monkeypatch.setattr("stores.postgres.silence._ON_ITS_WAY", 0.0)
    async with shared_postgres.worker() as (url, schema):
        store = PostgresStore(url, Options(schema=schema), migrate=False)
        await store.open()
        try:
            epoch = await store.register(new_worker())
            own = await running(store, epoch, "t")
            async with shared_postgres.connection() as stranger:
                seen = asyncio.Event()

                def examined(backends: list[int], busy: set[int]) -> None:
                    assert busy == set(backends), "it works for the call"
                    seen.set()

                after_examinations_in(store, examined)
                async with stranger.transaction():
                    await stranger.execute(f"LOCK TABLE {schema}.threads IN ACCESS EXCLUSIVE MODE")
                    waiting = begin_soon(store.thread("t"))
                    async with asyncio.timeout(10):
                        await seen.wait()
                        seen.clear()
                        await seen.wait()
                        backend = await stranger.fetch(WAITING, f"%{schema}%")
                    assert len(backend) == 1, "it waits once, and is not made again"
                assert await waiting is not None
            del own
        finally:
            await store.aclose()


WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"


async def test_call_goes_on_although_the_server_takes_no_connection_to_examine_it(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stores.postgres.silence.SILENT_FOR", 0.1)
    monkeypatch.setattr("stores.postgres.silence._LOOK_EVERY", 0.1)
    caplog.set_level(logging.DEBUG, "stores.postgres.silence")
    async with shared_postgres.store() as store, shared_postgres.connection() as stranger:
        await running(store, await store.register(new_worker()), "t")
        async with stranger.transaction():
            await stranger.execute(f"LOCK TABLE {store.schema}.threads IN ACCESS EXCLUSIVE MODE")
            waiting = begin_soon(store.thread("t"))
            await shared_postgres.execute(f"ALTER ROLE {store.schema} CONNECTION LIMIT 0")
            try:
                await wait_until(
                    lambda: len([line for line in caplog.messages if "could not be checked" in line]) > 1,
                    description="two examinations have failed",
                )
            finally:
                await shared_postgres.execute(f"ALTER ROLE {store.schema} CONNECTION LIMIT -1")
        assert await waiting is not None
    assert not any("is given up" in line for line in caplog.messages)


async def test_keepalive_and_user_timeout_of_connections_are_set(shared_postgres: Database) -> None:
    async with shared_postgres.worker() as (url, schema), shared_postgres.proxied(url) as (proxy, through_it):
        store = PostgresStore(through_it, Options(schema=schema), migrate=False)
        await store.open()
        try:
            await asyncio.gather(store.register(new_worker()), store.tick(1), store.row("r"))
            ours = connections_to(proxy.port)
            assert len(ours) >= 3
            for mine in ours:
                assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if option := getattr(socket, "TCP_USER_TIMEOUT", None):
                    assert mine.getsockopt(socket.IPPROTO_TCP, option) == SILENT_WITHIN * 1000
                mine.close()
        finally:
            await store.aclose()


def connections_to(port: int) -> list[socket.socket]:
    """Of this process; each has to be closed."""
    ours: list[socket.socket] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            mine = socket.socket(fileno=os.dup(int(descriptor.name)))
            try:
                there = mine.getpeername() if mine.family == socket.AF_INET else None
            except OSError:
                there = None
            if there == ("127.0.0.1", port):
                ours.append(mine)
            else:
                mine.close()
    return ours


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("postgresql://h/db", ["postgresql://h/db"]),
        ("postgresql://u:p@h1:1,[::1]:2/db?x=1", ["postgresql://u:p@h1:1/db?x=1", "postgresql://u:p@[::1]:2/db?x=1"]),
        ("postgresql:///db?host=a,b&port=1,2", ["postgresql:///db?host=a&port=1", "postgresql:///db?host=b&port=2"]),
        ("postgresql:///db?host=a,b&port=1", ["postgresql:///db?host=a&port=1", "postgresql:///db?host=b&port=1"]),
        ("postgresql:///db?host=a,b", ["postgresql:///db?host=a", "postgresql:///db?host=b"]),
    ],
)  # fmt: skip
def test_each_server_of_a_url_by_itself(url: str, each: list[str]) -> None:
    servers: list[dict[str, Any]] = Address(url).servers()
    assert [server["dsn"] for server in servers] == each
    assert {server["target_session_attrs"] for server in servers} == {"read-write"}
