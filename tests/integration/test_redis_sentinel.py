"""`redis+sentinel://`: the master is found, and found again after a failover."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from coordinator.lock import SlotState
from coordinator.locks.redis import RedisSlotLock
from coordinator.notifier import Connectivity
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis.link import RedisLink
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance.notifiers import CANCEL, Worker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

SENTINEL = """
sentinel monitor service {host} {port} 1
sentinel down-after-milliseconds service 300
sentinel failover-timeout service 2000
"""


class Deployment(NamedTuple):
    master: ValkeyServer
    replica: ValkeyServer
    sentinel: ValkeyServer
    url: str


@pytest.fixture
def deployment() -> Generator[Deployment]:
    with ExitStack() as stack:
        master = stack.enter_context(ValkeyServer())
        replica = stack.enter_context(ValkeyServer("--replicaof", master.host, str(master.port)))
        config = SENTINEL.format(host=master.host, port=master.port)
        sentinel = stack.enter_context(ValkeyServer("--sentinel", config=config))
        gone = free_port()
        url = f"redis+sentinel://127.0.0.1:{gone},{sentinel.host}:{sentinel.port}/service/0"
        yield Deployment(master, replica, sentinel, url)


def is_master(server: ValkeyServer) -> bool:
    """False also while it resets its connections, because it changes its role."""
    try:
        return b"role:master" in server.command("INFO", "replication")
    except OSError:
        return False


async def test_after_a_failover_the_new_master_is_used(deployment: Deployment, namespace: str) -> None:
    await wait_until(
        lambda: b"num-slaves\r\n$1\r\n1" in deployment.sentinel.command("SENTINEL", "MASTER", "service"),
        description="the sentinel knows the replica",
        timeout=20,
    )
    link = RedisLink(deployment.url, namespace=namespace)
    notifier = RedisNotifier(link)
    try:
        worker = await Worker(notifier).start(1)
        assert await link.ping()
        slot = link.keys.thread("t").slot.decode()
        RedisSlotLock(link).bind("t", "r", fence=1)
        await wait_until(lambda: b"r" in deployment.replica.command("GET", slot), description="replicated")
        resyncs = worker.resyncs
        deployment.master.kill()
        await wait_until(lambda: is_master(deployment.replica), description="the failover", timeout=20)
        await wait_until(link.ping, description="the link is at the new master", timeout=3)
        await wait_until(lambda: worker.resyncs > resyncs, description="listening anew", timeout=3)
        assert (await RedisSlotLock(link).admit("t", "other")).holder == "r"
        assert (await RedisSlotLock(link).admit("new", "r")).state is SlotState.free
        notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: worker.signals == [CANCEL], description="signals travel")
        await wait_until(lambda: notifier.connectivity is Connectivity.connected, description="connected")
    finally:
        await notifier.aclose()
        await link.aclose()


async def test_a_master_that_no_sentinel_knows_is_away(deployment: Deployment, namespace: str) -> None:
    link = RedisLink(deployment.url.replace("/service", "/other"), namespace=namespace)
    assert not await link.ping()
    assert link.away
    await link.aclose()
