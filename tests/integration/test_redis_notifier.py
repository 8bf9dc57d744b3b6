"""The notifier on real pub/sub: many watchers, many epochs, presence in Redis."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.locks.redis import RedisSlotLock
from coordinator.notifier import Signal
from coordinator.notifiers.redis import RedisNotifier
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance.notifiers import CANCEL, CLAIM, SETTLED
from tests.support.inside import link_of
from tests.support.linked import notified
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


# ---- many watchers, many epochs ------------------------------------------------------------------------


async def test_watches_entered_in_one_turn_are_one_write(proxy: Proxy, namespace: str) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        ready: list[int] = []

        async def watch(number: int) -> None:
            async with worker.notifier.watch(f"t{number}") as wakeup:
                ready.append(number)
                assert await wakeup.wait(5)

        requests = proxy.requests
        tasks = [asyncio.create_task(watch(number)) for number in range(100)]
        await wait_until(lambda: len(ready) == 100, description="all watch")
        assert proxy.requests - requests <= 3  # one, and perhaps a canary's two
        for number in range(100):
            worker.notifier.notify_thread(f"t{number}", SETTLED)
        await asyncio.gather(*tasks)


async def test_channels_are_left_when_no_watcher_is_left(own_valkey: ValkeyServer, namespace: str) -> None:
    def channels() -> bytes:
        return own_valkey.command("PUBSUB", "CHANNELS")

    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        async with worker.notifier.watch("t"):
            assert b"{t:t}:ev" in channels()
        await wait_until(lambda: b"{t:t}:ev" not in channels(), description="the thread's channel is left")
        await worker.start(2)
        await wait_until(lambda: b"{w:1}:ctl" not in channels(), description="the old abort channel is left")
        assert channels().startswith(b"*2\r\n")  # the new one, and the broadcast
    await wait_until(lambda: channels() == b"*0\r\n", description="all are left")


async def test_no_pattern_is_subscribed_and_no_key_is_searched(
    own_valkey: ValkeyServer, namespace: str
) -> None:
    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        async with worker.notifier.watch("t"):
            worker.notifier.notify_thread("t", SETTLED)
        own = own_valkey.command("INFO", "commandstats").lower()
        for forbidden in (b"psubscribe", b"_keys:", b"_scan:"):
            assert forbidden not in own


# ---- presence ------------------------------------------------------------------------------------------


async def test_presence_has_a_ttl_and_is_renewed(shared_valkey: ValkeyServer, namespace: str) -> None:
    async with notified(shared_valkey.url, namespace) as worker:
        await worker.start(7)
        lease, workers = f"{namespace}:{{w:7}}:lease", f"{namespace}:{{g}}:workers"
        await wait_until(
            lambda: shared_valkey.command("GET", lease) == b"$1\r\n3\r\n", description="the third beat"
        )
        assert 14_000 < int(shared_valkey.command("PTTL", lease)[1:]) <= 15_000
        assert 13_000 < int(shared_valkey.command("PTTL", workers)[1:]) <= 15_000
        assert b"\r\n7\r\n" in shared_valkey.command("ZRANGE", workers, "0", "-1")


async def test_released_threads_wake_watchers_of_other_workers(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with (
        notified(shared_valkey.url, namespace) as one,
        notified(shared_valkey.url, namespace) as other,
        one.notifier.watch("t") as wakeup,
    ):
        notifier = other.notifier
        assert isinstance(notifier, RedisNotifier)
        RedisSlotLock(link_of(notifier)).release("t", "r", fence=3)
        assert await wakeup.wait(5)


async def test_one_workers_namespace_is_not_anothers(shared_valkey: ValkeyServer, namespace: str) -> None:
    async with (
        notified(shared_valkey.url, namespace) as one,
        notified(shared_valkey.url, namespace + "-other") as other,
    ):
        await one.start(1)
        await other.start(1)
        other.notifier.notify_worker(1, CANCEL)
        one.notifier.notify_worker(1, CLAIM)
        await wait_until(lambda: one.signals and other.signals, description="one signal each")
        assert (one.signals, other.signals) == ([CLAIM], [CANCEL])


async def test_a_stop_in_the_middle_of_connecting_leaves_nothing(proxy: Proxy, namespace: str) -> None:
    for turns in range(12):
        async with notified(proxy.url, namespace) as worker:
            await worker.notifier.start(1, lambda _: None, lambda: None, lambda _: None)
            worker.notifier.notify_worker(1, Signal(kind="claim"))
            for _ in range(turns):
                await asyncio.sleep(0)
