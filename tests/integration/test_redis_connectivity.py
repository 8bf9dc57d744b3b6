"""The notifier on connections that break, and on those that only seem to stand."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from coordinator.notifier import Connectivity
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis import listener as listeners
from coordinator.redis.wire import Wire
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance.notifiers import CANCEL, SETTLED
from tests.support.inside import canary_of, control_channels_of, listener_of, subscribed_by, wire_of
from tests.support.linked import HEALS_WITHIN, notified, until
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

FOUND_WITHIN = 2.0
"""Seconds from a connection being dead to its being given up."""

LISTENER = 2
"""The number of the listener's first connection at a proxy; the link has connected before it."""


# ---- the canary ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [None, LISTENER], ids=["everything", "only what is listened to"])
async def test_a_black_hole_is_found_within_two_seconds(
    proxy: Proxy, namespace: str, only: int | None
) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        connections, resyncs = proxy.connections, worker.resyncs
        proxy.black_hole(only=only)
        await wait_until(
            lambda: worker.notifier.connectivity is not Connectivity.connected,
            description="suspected",
            timeout=FOUND_WITHIN,
        )
        await wait_until(lambda: proxy.connections > connections, description="another connection is tried")
        proxy.restore()
        await wait_until(lambda: worker.resyncs > resyncs, description="listening anew", timeout=HEALS_WITHIN)
        await until(worker, Connectivity.connected)
        worker.notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: worker.signals == [CANCEL], description="signals travel again")
        assert Connectivity.suspected in worker.connectivities


async def test_listener_whose_greeting_is_not_answered_connects_anew(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first connection is silent from the subscriptions on; that of the link works."""
    greet = listeners.Listener.greet

    async def greet_in_silence(listener: listeners.Listener, wire: Wire) -> None:
        proxy.black_hole(only=LISTENER)
        await greet(listener, wire)

    monkeypatch.setattr(listeners.Listener, "greet", greet_in_silence)
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected, timeout=HEALS_WITHIN)
        assert proxy.connections > LISTENER
        worker.notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: worker.signals == [CANCEL], description="signals arrive")


async def test_connectivity_stays_down_between_attempts_that_fail(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server that takes connections and refuses the subscriptions."""
    refused: list[Wire] = []

    async def refuse(_: listeners.Listener, wire: Wire) -> None:
        refused.append(wire)
        raise ConnectionRefusedError("no subscriptions here")

    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        with monkeypatch.context() as refusing:
            refusing.setattr(listeners.Listener, "greet", refuse)
            proxy.reset()
            await wait_until(lambda: len(refused) >= 4, description="attempts", timeout=20)
            assert worker.connectivities[-1] is Connectivity.down
            assert worker.connectivities.count(Connectivity.down) == 1
        await until(worker, Connectivity.connected)


async def test_a_subscription_that_was_lost_alone_is_found(own_valkey: ValkeyServer, namespace: str) -> None:
    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        notifier = worker.notifier
        assert isinstance(notifier, RedisNotifier)
        wire = wire_of(listener_of(notifier))
        assert wire is not None
        resyncs = worker.resyncs
        wire.send(b"*1\r\n$11\r\nUNSUBSCRIBE\r\n")  # behind the notifier's back
        await wait_until(lambda: worker.resyncs > resyncs, description="found and healed", timeout=2.5)


async def test_replaced_connection_stays_suspected_until_a_message_has_arrived(
    shared_valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages are lost in silence: subscriptions are confirmed and pings answered on each new connection."""
    async with notified(shared_valkey.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        notifier = worker.notifier
        assert isinstance(notifier, RedisNotifier)

        def lost(payload: bytes) -> bool:
            return payload.startswith(b"hb:")

        with monkeypatch.context() as lossy:
            lossy.setattr(canary_of(notifier), "receive", lost)
            await until(worker, Connectivity.suspected)
            before = listener_of(notifier).generation
            await wait_until(
                lambda: listener_of(notifier).generation >= before + 2, description="replaced, twice"
            )
            assert worker.connectivities[-1] is Connectivity.suspected
            assert worker.connectivities.count(Connectivity.connected) == 1
        await until(worker, Connectivity.connected, 5.0)


async def test_own_channels_are_subscribed_to_before_all_others(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many threads are watched, a worker receives its cancels as soon as it has connected."""
    monkeypatch.setattr(listeners, "_BATCH", 50)
    async with notified(proxy.url, namespace) as worker, AsyncExitStack() as stack:
        await worker.start(1)
        for number in range(320):
            await stack.enter_async_context(worker.notifier.watch(f"t{number}"))
        notifier = worker.notifier
        assert isinstance(notifier, RedisNotifier)
        confirmed: list[bytes] = []
        original = notifier.on_subscribed

        def on_subscribed(channel: bytes) -> None:
            confirmed.append(channel)
            original(channel)

        monkeypatch.setattr(notifier, "on_subscribed", on_subscribed)
        proxy.reset()
        await wait_until(lambda: len(confirmed) == 322, description="all are subscribed to again")
        assert set(confirmed[:2]) == control_channels_of(notifier)
        assert len(set(confirmed)) == 322
        await stack.aclose()
        assert subscribed_by(listener_of(notifier)) == control_channels_of(notifier)


async def test_a_healthy_connection_is_left_alone(proxy: Proxy, namespace: str) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        requests, connections = proxy.requests, proxy.connections
        await wait_until(lambda: proxy.requests > requests + 10, description="some canaries", timeout=10)
        assert proxy.connections == connections
        assert worker.resyncs == 1
        assert worker.connectivities == [Connectivity.connected]


async def test_a_link_that_alone_is_away_is_reported(proxy: Proxy, namespace: str) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        proxy.black_hole(spare=LISTENER)
        await until(worker, Connectivity.suspected, FOUND_WITHIN)
        attempts = proxy.connections
        await wait_until(lambda: proxy.connections > attempts + 2, description="some attempts of the link")
        assert worker.resyncs == 1, "the subscription stands: it answers pings"
        proxy.restore()
        await until(worker, Connectivity.connected, HEALS_WITHIN + 0.5)


# ---- away, and back ------------------------------------------------------------------------------------


async def test_a_restart_is_healed_within_two_seconds_and_reported(
    own_valkey: ValkeyServer, namespace: str
) -> None:
    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        async with worker.notifier.watch("t") as wakeup:
            own_valkey.kill()
            await until(worker, Connectivity.down)
            await asyncio.sleep(1.5)  # the longest back-off is reached: the subject
            resyncs = worker.resyncs
            own_valkey.start()
            await until(worker, Connectivity.connected, HEALS_WITHIN)
            assert worker.resyncs == resyncs + 1
            assert await wakeup.wait(1), "a subscription anew wakes the watchers"

            async def received() -> bool:
                worker.notifier.notify_worker(1, CANCEL)
                worker.notifier.notify_thread("t", SETTLED)
                return CANCEL in worker.signals and await wakeup.wait(0)

            await wait_until(received, description="signals travel again", timeout=HEALS_WITHIN)


async def test_each_loss_of_the_connection_is_followed_by_a_resync(
    shared_valkey: ValkeyServer, proxy: Proxy, namespace: str
) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        for number in range(2, 5):
            proxy.reset()
            await wait_until(lambda: worker.resyncs == number, description="a resync")  # noqa: B023 - awaited here


async def test_it_starts_while_redis_is_away(namespace: str) -> None:
    port = free_port()
    async with notified(f"redis://127.0.0.1:{port}/0", namespace) as worker:
        began = time.perf_counter()
        await worker.notifier.start(1, worker.signals.append, lambda: None, worker.connectivities.append)
        assert time.perf_counter() - began < 0.1
        await until(worker, Connectivity.down)
        began = time.perf_counter()
        async with worker.notifier.watch("t") as wakeup:
            worker.notifier.notify_thread("t", SETTLED)
            assert not await wakeup.wait(0)
        assert time.perf_counter() - began < 0.1, "no caller waits for a subscription that cannot stand"
        with ValkeyServer(port=port):
            await until(worker, Connectivity.connected, HEALS_WITHIN)


async def test_a_server_that_refuses_subscriptions_is_down(own_valkey: ValkeyServer, namespace: str) -> None:
    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        own_valkey.command("ACL", "SETUSER", "default", "resetchannels")
        await until(worker, Connectivity.down)
        own_valkey.command("ACL", "SETUSER", "default", "allchannels")
        await until(worker, Connectivity.connected, HEALS_WITHIN)


async def test_entering_a_watch_is_bounded(proxy: Proxy, namespace: str) -> None:
    async with notified(proxy.url, namespace) as worker:
        await worker.start(1)
        proxy.black_hole()
        began = time.perf_counter()
        async with worker.notifier.watch("t"):
            assert time.perf_counter() - began < 0.35


async def test_clients_killed_by_an_operator_come_back(own_valkey: ValkeyServer, namespace: str) -> None:
    async with notified(own_valkey.url, namespace) as worker:
        await worker.start(1)
        own_valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: worker.resyncs == 2, description="a resync", timeout=HEALS_WITHIN)
