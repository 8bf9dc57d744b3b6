"""The link and the slot lock against a real server: speed, scripts, what stays in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from coordinator.lock import SlotState
from coordinator.locks.redis import RedisSlotLock
from coordinator.redis.link import RedisLink
from coordinator.redis.scripts import SCRIPTS, enlist
from coordinator.servers.valkey import ValkeyServer
from tests.support.inside import timer_of
from tests.support.linked import HEALS_WITHIN, linked
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


async def test_construction_does_no_io() -> None:
    link = RedisLink("redis://127.0.0.1:1/0")
    assert not link.away
    await link.aclose()
    await link.aclose()
    assert not await link.ping()


# ---- one turn, one write -------------------------------------------------------------------------------


async def test_calls_of_one_turn_leave_as_one_write(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        lock = RedisSlotLock(link)
        await wait_until(lambda: proxy.requests == proxy.replies, description="quiet")
        before = proxy.requests, proxy.replies
        answers = await asyncio.gather(*(lock.admit(f"t{number}", "r") for number in range(50)))
        assert {answer.state for answer in answers} == {SlotState.free}
        assert (proxy.requests - before[0], proxy.replies - before[1]) == (1, 1)


async def test_a_thread_of_calls_costs_the_commands_it_has(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.command("CONFIG", "RESETSTAT")
        lock = RedisSlotLock(link)
        await lock.admit("t", "r")
        lock.bind("t", "r", fence=1)
        lock.release("t", "r", fence=1)
        await link.ping()
        stats = own_valkey.command("INFO", "commandstats")
        for command in (b"get", b"set", b"evalsha"):  # `get` counts the one in the script `release`, too
            assert b"cmdstat_%b:calls=%d," % (command, 1 + (command == b"get")) in stats


async def test_posted_calls_are_done_before_the_link_closes(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    link = RedisLink(shared_valkey.url, namespace=namespace)
    RedisSlotLock(link).bind("t", "r", fence=1)
    await link.aclose()
    slot = link.keys.thread("t").slot.decode()
    assert shared_valkey.command("GET", slot) == b"$3\r\n1 r\r\n"


# ---- scripts that the server has forgotten -------------------------------------------------------------


@pytest.mark.parametrize("forget", [("SCRIPT", "FLUSH"), ("FLUSHALL",)], ids=" ".join)
async def test_forgotten_scripts_are_sent_again(
    own_valkey: ValkeyServer, namespace: str, forget: tuple[str, ...]
) -> None:
    async with linked(own_valkey.url, namespace) as link:
        lock = RedisSlotLock(link)
        own_valkey.command(*forget)
        answers = await asyncio.gather(*(lock.admit(f"t{number}", "r") for number in range(20)))
        assert {answer.state for answer in answers} == {SlotState.free}
        lock.bind("t0", "r", fence=1)
        assert (await lock.admit("t0", "other")).holder == "r"
        assert link.counters.failed == 0
        assert not link.away


async def test_a_restarted_server_is_taught_the_scripts_anew(
    own_valkey: ValkeyServer, namespace: str
) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.kill()
        own_valkey.start()
        await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)
        assert (await RedisSlotLock(link).admit("t", "r")).state is SlotState.free
        assert link.counters.reloaded == 0


# ---- nothing stays in Redis for ever -------------------------------------------------------------------


async def test_no_key_is_left_without_a_ttl(own_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(own_valkey.url, namespace) as link:
        lock = RedisSlotLock(link)
        for number in range(3):
            lock.bind(f"t{number}", "r", fence=1)
        lock.bind("t0", "again", fence=2)
        lock.release("t1", "r", fence=1)
        assert await link.call(enlist(link.keys.workers, epoch=1, ttl_ms=15_000)) == 1
        keys = [name for name in own_valkey.command("KEYS", "*").split(b"\r\n") if b"{" in name]
        names = [name for name in keys if b":probe" not in name]
        assert len(names) == 3  # slots of t0 and t2, the workers
        assert len(keys) > 3
        for name in keys:
            ttl = int(own_valkey.command("PTTL", name.decode())[1:])
            assert 0 < ttl <= 15 * 60 * 1000, name


async def test_every_script_fits_one_hash_slot_of_a_cluster(namespace: str) -> None:
    with ValkeyServer("--cluster-enabled", "yes") as cluster:
        cluster.command("CLUSTER", "ADDSLOTS", *(str(number) for number in range(16384)))
        await wait_until(
            lambda: b"cluster_state:ok" in cluster.command("CLUSTER", "INFO"), description="a cluster"
        )
        async with linked(cluster.url, namespace) as link:
            lock = RedisSlotLock(link)
            assert (await lock.admit("t", "r")).state is SlotState.free
            lock.bind("t", "r", fence=1)
            lock.release("t", "r", fence=1)
            assert await link.call(enlist(link.keys.workers, epoch=1, ttl_ms=1000)) == 1
            assert link.counters.refused == 0


async def test_workers_that_stay_away_leave_the_list(shared_valkey: ValkeyServer, namespace: str) -> None:
    async with linked(shared_valkey.url, namespace) as link:
        await link.call(enlist(link.keys.workers, epoch=1, ttl_ms=1))

        async def alone() -> bool:
            return await link.call(enlist(link.keys.workers, epoch=2, ttl_ms=10_000)) == 1

        await wait_until(alone, description="the first has expired")


def test_all_scripts_have_names_of_their_own() -> None:
    assert (
        len({script.name for script in SCRIPTS}) == len({script.load for script in SCRIPTS}) == len(SCRIPTS)
    )


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_loop_that_stood_still_before_a_call_left_loses_no_answer(
    shared_valkey: ValkeyServer, namespace: str, run: Callable[..., Any]
) -> None:
    """Its time is over when it is sent; uvloop knows no timers in the past."""

    async def ping_after_stall() -> tuple[bool, list[Any]]:
        failures = list[Any]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with linked(shared_valkey.url, namespace) as link:
            await wait_until(lambda: timer_of(link) is None, description="no call is under way")
            asking = asyncio.ensure_future(link.ping())
            await asyncio.sleep(0)
            time.sleep(0.6)  # noqa: ASYNC251 - the stall is what is tested
            return await asking, failures

    assert run(ping_after_stall()) == (True, [])
