from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator

import pytest
from fakeredis import TcpFakeServer

from coordinator.lock import SlotAnswer, SlotLock, SlotState
from coordinator.locks.local import LocalSlotLock
from coordinator.locks.redis import RedisSlotLock
from coordinator.notifier import Notifier
from coordinator.notifiers.local import LocalNotifier
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis.link import RedisLink
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance import REMEMBERING_SLOT_LOCK, SLOT_LOCK, Check, Slot


class SlotLockSuite:
    """The subclass has fixtures `lock` and `notifier`."""

    @pytest.mark.parametrize("check", SLOT_LOCK, ids=str)
    async def test_conforms(self, lock: SlotLock, notifier: Notifier, check: Check[Slot]) -> None:
        await check(Slot(lock, notifier))


class RememberingSlotSuite:
    """The subclass has a fixture `lock`."""

    @pytest.mark.parametrize("check", REMEMBERING_SLOT_LOCK, ids=str)
    async def test_remembers(self, lock: SlotLock, check: Check[SlotLock]) -> None:
        await check(lock)


class TestLocalSlotLock(SlotLockSuite):
    @pytest.fixture
    async def notifier(self, no_task_left: None) -> AsyncGenerator[Notifier]:
        notifier = LocalNotifier()
        yield notifier
        await notifier.aclose()

    @pytest.fixture
    def lock(self, notifier: Notifier) -> SlotLock:
        return LocalSlotLock(notifier)

    async def test_every_admission_is_left_to_the_store(self, lock: SlotLock) -> None:
        lock.bind("t", "r1", fence=1)
        assert await lock.admit("t", "r2") == SlotAnswer(SlotState.unknown)


class TestRedisSlotLock(SlotLockSuite, RememberingSlotSuite):
    @pytest.fixture
    async def link(
        self, shared_valkey: ValkeyServer, namespace: str, no_task_left: None
    ) -> AsyncGenerator[RedisLink]:
        link = RedisLink(shared_valkey.url, namespace=namespace)
        yield link
        await link.aclose()

    @pytest.fixture
    async def notifier(self, link: RedisLink) -> AsyncGenerator[Notifier]:
        notifier = RedisNotifier(link)
        yield notifier
        await notifier.aclose()

    @pytest.fixture
    def lock(self, link: RedisLink) -> SlotLock:
        return RedisSlotLock(link)


class TestScriptsOnFakeRedis(RememberingSlotSuite):
    """The same scripts in another implementation of Redis and of Lua."""

    @pytest.fixture
    def fake_server(self) -> Generator[str]:
        server = TcpFakeServer(("127.0.0.1", 0))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        server.server_close()
        thread.join()

    @pytest.fixture
    async def lock(self, fake_server: str, namespace: str, no_task_left: None) -> AsyncGenerator[SlotLock]:
        link = RedisLink(fake_server, namespace=namespace, budget=2)
        yield RedisSlotLock(link)
        await link.aclose()
