"""The link and the slot lock while Redis is away, slow or of no use, and when it is back."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from coordinator.lock import SlotState
from coordinator.locks.redis import RedisSlotLock
from coordinator.redis.link import QUEUE_LIMIT, RedisLink
from coordinator.redis.resp import pack
from coordinator.redis.scripts import Command, ping
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from tests.support.linked import HEALS_WITHIN, linked
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


# ---- away, and back ------------------------------------------------------------------------------------


async def test_outage_is_reported_at_once_and_ends_within_two_seconds(
    own_valkey: ValkeyServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="coordinator")
    async with linked(own_valkey.url, namespace) as link:
        lock = RedisSlotLock(link)
        own_valkey.kill()
        await wait_until(lambda: link.away, description="the circuit opens")
        began = time.perf_counter()
        for number in range(1000):
            assert (await lock.admit("t", f"r{number}")).state is SlotState.unknown
            lock.bind("t", f"r{number}", fence=1)
            lock.release("t", f"r{number}", fence=1)
        assert time.perf_counter() - began < 0.5
        assert link.counters.dropped >= 2000  # the lock does not even send the admissions
        assert not await link.ping()
        own_valkey.start()
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)
        assert (await lock.admit("t", "r")).state is SlotState.free
    levels = [record.levelname for record in caplog.records if "link" in record.getMessage()]
    assert levels == ["WARNING", "INFO"], "an outage is logged once when it begins and once when it ends"


async def test_connection_that_the_server_closes_is_logged_with_this_reason(
    own_valkey: ValkeyServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("coordinator.redis.keeper._STABLE_AFTER", float("inf"))
    async with linked(own_valkey.url, namespace):
        own_valkey.command("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(
            lambda: any("Redis is away for the link" in line for line in caplog.messages),
            description="the loss is logged",
        )
    (line,) = [line for line in caplog.messages if "Redis is away" in line]
    assert ": closed by the server. " in line


async def test_it_heals_after_an_outage_of_any_length(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        for _ in range(2):
            own_valkey.kill()
            await wait_until(lambda: link.away, description="the circuit opens")
            await asyncio.sleep(1.5)  # the longest back-off is reached: the subject
            own_valkey.start()
            await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


async def test_port_without_a_listener_is_reported_within_the_budget(namespace: str) -> None:
    link = RedisLink(f"redis://127.0.0.1:{free_port()}/0", namespace=namespace)
    began = time.perf_counter()
    assert (await RedisSlotLock(link).admit("t", "r")).state is SlotState.unknown
    assert time.perf_counter() - began < 0.25
    assert link.away
    await link.aclose()


async def test_connecting_costs_a_caller_no_more_than_the_budget(proxy: Proxy, namespace: str) -> None:
    """The best of several: the machine may be busy."""
    proxy.delay = 0.2  # for the handshake, and as much for the greeting
    took: list[float] = []
    while len(took) < 5 and min(took, default=1.0) >= 0.35:
        link = RedisLink(proxy.url, namespace=namespace)
        try:
            began = time.perf_counter()
            assert (await RedisSlotLock(link).admit("t", "r")).state is SlotState.unknown
            took.append(time.perf_counter() - began)
            await wait_until(link.ping, description="connected all the same")
        finally:
            await link.aclose()
    assert min(took) < 0.35


async def test_a_black_hole_costs_the_budget_and_then_nothing(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        lock = RedisSlotLock(link)
        proxy.black_hole()
        began = time.perf_counter()
        while not link.away:
            called_at = time.perf_counter()
            answers = await asyncio.gather(*(lock.admit("t", f"r{number}") for number in range(10)))
            assert {answer.state for answer in answers} == {SlotState.unknown}
            assert time.perf_counter() - called_at < 0.35
        assert time.perf_counter() - began < 1.0
        assert (await lock.admit("t", "r")).state is SlotState.unknown
        proxy.restore()
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


async def test_calls_that_no_caller_awaits_find_a_black_hole_too(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        lock = RedisSlotLock(link)
        proxy.black_hole()

        def post() -> bool:
            lock.bind("t", "r", fence=1)
            return link.away

        await wait_until(post, description="the circuit opens", timeout=2)


async def test_a_frozen_server_is_away_until_it_goes_on(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.pause()
        while not link.away:
            await link.ping()
        own_valkey.resume()
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


async def test_a_server_slower_than_the_budget_is_away(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        proxy.delay = 0.3
        while not link.away:
            await link.ping()
        attempts = proxy.connections
        await wait_until(lambda: proxy.connections > attempts + 1, description="tried again, twice")
        assert link.away
        proxy.delay = 0.0
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "late"])
async def test_a_missing_reply_is_not_replaced_by_the_next(proxy: Proxy, namespace: str, lost: bool) -> None:
    async with linked(proxy.url, namespace, budget=0.1) as link:
        lock = RedisSlotLock(link)
        lock.bind("held", "holder", fence=1)
        assert (await lock.admit("held", "r")).holder == "holder"
        if lost:
            proxy.drop_replies = 1
        else:
            proxy.delay = 0.15
        first, *_ = await asyncio.gather(
            lock.admit("held", "r"), wait_until(lambda: link.away, description="away")
        )
        assert first.state is SlotState.unknown
        proxy.delay = 0.0
        for number in range(20):
            answer = await lock.admit(f"idle{number}", "r")
            assert answer.state in {SlotState.free, SlotState.unknown}
        assert link.counters.timed_out == 1


async def test_a_call_whose_reply_was_lost_is_not_made_again(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        channel = link.keys.worker(1).lease
        proxy.drop_replies = 1
        assert await link.call(Command(None, pack(b"INCR", channel))) is None
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)
        assert await link.call(Command(None, pack(b"GETDEL", channel))) == b"1"


async def test_a_reset_is_healed_without_an_outage(
    proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.redis.keeper._STABLE_AFTER", 0.0)
    async with linked(proxy.url, namespace) as link:
        connections = proxy.connections
        proxy.reset()
        await wait_until(lambda: proxy.connections > connections, description="another connection")
        assert await link.ping()
        assert not link.away


async def test_a_stalled_event_loop_is_not_blamed_on_redis(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with linked(shared_valkey.url, namespace) as link:
        pinging = asyncio.create_task(link.ping())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - the stall is what is tested
        assert await pinging
        assert link.counters.timed_out == 0


async def test_a_cancelled_caller_takes_no_other_reply_with_it(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with linked(shared_valkey.url, namespace) as link:
        lock = RedisSlotLock(link)
        lock.bind("t", "holder", fence=1)
        tasks = [asyncio.create_task(lock.admit("t", f"r{number}")) for number in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(answer, "holder", None) for answer in answers] == [None, "holder"] * 5


async def test_a_full_queue_drops_and_counts(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace, budget=30) as link:
        for _ in range(QUEUE_LIMIT + 7):
            link.post(ping())
        assert link.counters.dropped == 7
        assert await link.call(ping()) is None
        await wait_until(
            lambda: link.counters.answered >= QUEUE_LIMIT, description="the others are answered", timeout=30
        )
        assert await link.ping()


# ---- servers that cannot help --------------------------------------------------------------------------


async def test_a_full_server_is_away(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.command("CONFIG", "SET", "maxmemory", "1")
        RedisSlotLock(link).bind("t", "r", fence=1)
        await wait_until(lambda: link.away, description="the write is refused")
        own_valkey.command("CONFIG", "SET", "maxmemory", "0")
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


async def test_a_replica_is_away(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.command("REPLICAOF", "127.0.0.1", str(free_port()))
        RedisSlotLock(link).bind("t", "r", fence=1)
        await wait_until(lambda: link.away, description="the write is refused")
        own_valkey.command("REPLICAOF", "NO", "ONE")
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)


async def test_a_key_of_another_kind_fails_one_call_only(shared_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(shared_valkey.url, namespace) as link:
        shared_valkey.command("LPUSH", link.keys.thread("t").slot.decode(), "x")
        lock = RedisSlotLock(link)
        assert (await lock.admit("t", "r")).state is SlotState.unknown
        assert (await lock.admit("other", "r")).state is SlotState.free
        assert (link.counters.refused, link.away) == (1, False)


async def test_a_wrong_password_is_away_and_not_shown(
    own_valkey: ValkeyServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.command("CONFIG", "SET", "requirepass", "right")
    where = f"{own_valkey.host}:{own_valkey.port}/0"
    link = RedisLink(f"redis://:wr0ng@{where}", namespace=namespace)
    assert not await link.ping()
    assert link.away
    assert "wr0ng" not in caplog.text + repr(link) + repr(link.address)
    await link.aclose()
    async with linked(f"redis://:right@{where}", namespace) as good:
        assert (await RedisSlotLock(good).admit("t", "r")).state is SlotState.free
