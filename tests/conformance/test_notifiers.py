from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from coordinator.notifier import Connectivity, Notifier
from coordinator.notifiers.local import LocalHub, LocalNotifier
from coordinator.notifiers.postgres import PostgresNotifier
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis.link import RedisLink
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance import Check
from coordinator.testing.conformance.notifiers import CANCEL, NOTIFIER, MakeNotifier, Worker
from stores.postgres import Options
from tests.support.inside import channels_of
from tests.support.postgres import Database
from tests.support.waiting import wait_until


class NotifierSuite:
    """The subclass has a fixture `make`."""

    @pytest.fixture(autouse=True)
    async def _nothing_is_left(self, no_task_left: None) -> None:
        """The fixture checks it."""

    @pytest.mark.parametrize("check", NOTIFIER, ids=str)
    async def test_conforms(self, make: MakeNotifier, check: Check[MakeNotifier]) -> None:
        await check(make)


class TestLocalNotifier(NotifierSuite):
    @pytest.fixture
    async def make(self, no_task_left: None) -> AsyncGenerator[MakeNotifier]:
        hub = LocalHub()
        async with AsyncExitStack() as stack:

            def make() -> Notifier:
                notifier = LocalNotifier(hub)
                stack.push_async_callback(notifier.aclose)
                return notifier

            yield make

    async def test_there_is_no_transport(self, make: MakeNotifier) -> None:
        worker = await Worker(make()).start(1)
        assert worker.notifier.connectivity is Connectivity.off
        assert worker.connectivities == []

    async def test_without_a_shared_hub_each_is_alone(self) -> None:
        one, other = await Worker(LocalNotifier()).start(1), await Worker(LocalNotifier()).start(2)
        one.notifier.notify_worker(2, CANCEL)
        one.notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: one.signals, description="its own signal")
        assert other.signals == []


class TestRedisNotifier(NotifierSuite):
    @pytest.fixture
    async def make(
        self, shared_valkey: ValkeyServer, namespace: str, no_task_left: None
    ) -> AsyncGenerator[MakeNotifier]:
        async with AsyncExitStack() as stack:

            def make() -> Notifier:
                link = RedisLink(shared_valkey.url, namespace=namespace)
                stack.push_async_callback(link.aclose)
                notifier = RedisNotifier(link)
                stack.push_async_callback(notifier.aclose)
                return notifier

            yield make

    async def test_connectivity_becomes_connected(self, make: MakeNotifier) -> None:
        worker = Worker(make())
        assert worker.notifier.connectivity is Connectivity.connecting
        await worker.start(1)
        await wait_until(
            lambda: worker.notifier.connectivity is Connectivity.connected, description="connected"
        )
        assert worker.connectivities == [Connectivity.connected]

    async def test_forged_messages_are_dropped_and_counted(
        self, make: MakeNotifier, shared_valkey: ValkeyServer, namespace: str
    ) -> None:
        notifier = make()
        assert isinstance(notifier, RedisNotifier)
        worker = await Worker(notifier).start(1)
        channel = f"{namespace}:{{w:1}}:ctl"
        for forged in ("", "{}", "x" * 5000, '{"kind":"later"}', "[" * 10_000, "hb:999999"):
            shared_valkey.command("PUBLISH", channel, forged)
        shared_valkey.command("PUBLISH", f"{namespace}:{{g}}:ctl", '{"kind":"claim"}')
        await wait_until(lambda: worker.signals, description="the broadcast after them")
        assert [signal.kind for signal in worker.signals] == ["claim"]
        assert notifier.rejected == 5


class TestPostgresNotifier(NotifierSuite):
    """LISTEN and NOTIFY need only the right to connect, and no schema."""

    @pytest.fixture
    async def make(
        self, shared_postgres: Database, namespace: str, no_task_left: None
    ) -> AsyncGenerator[MakeNotifier]:
        async with AsyncExitStack() as stack:

            def make() -> Notifier:
                notifier = PostgresNotifier(shared_postgres.url, Options(), namespace=namespace)
                stack.push_async_callback(notifier.aclose)
                return notifier

            yield make

    async def test_connectivity_becomes_connected(self, make: MakeNotifier) -> None:
        worker = Worker(make())
        assert worker.notifier.connectivity is Connectivity.connecting
        await worker.start(1)
        assert worker.notifier.connectivity is Connectivity.connected
        assert worker.connectivities == [Connectivity.connected]

    async def test_forged_messages_are_dropped_and_counted(
        self, make: MakeNotifier, shared_postgres: Database
    ) -> None:
        notifier = make()
        assert isinstance(notifier, PostgresNotifier)
        worker = await Worker(notifier).start(1)
        *others, broadcast = channels_of(notifier, 1)
        async with shared_postgres.connection() as cx:
            for forged in ("", "{}", "x" * 5000, '{"kind":"later"}', "[" * 7000, "proof:1"):
                for channel in others:
                    await cx.execute("SELECT pg_notify($1, $2)", channel, forged)
            await cx.execute("SELECT pg_notify($1, $2)", broadcast, '{"kind":"claim"}')
        await wait_until(lambda: worker.signals, description="the broadcast after them")
        assert [signal.kind for signal in worker.signals] == ["claim"]
        assert notifier.rejected == 5
