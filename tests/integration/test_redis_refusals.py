"""A Redis that answers and refuses: noticed, reported with the server's own reason, and nothing but speed is
lost."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from coordinator import End, Gap
from coordinator.locks.redis import RedisSlotLock
from coordinator.notifier import Connectivity
from coordinator.redis.keys import Keys
from coordinator.redis.link import RedisLink, Use
from coordinator.servers.valkey import ValkeyServer
from tests.fundamentals.test_streams import all_of
from tests.support.agents import running
from tests.support.command_line import UNREACHABLE, cli
from tests.support.linked import HEALS_WITHIN, linked, notified, until
from tests.support.teams import keys_without_ttl, team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

NOTICED_WITHIN = 5.0

HINTS = [
    "evalsha", "publish", "set", "get", "del", "pexpire", "time", "zadd", "zremrangebyscore", "zcard",
]  # fmt: skip
EVENTS = ["evalsha", "xadd", "xrange", "xrevrange", "get", "pexpire", "del", "publish"]
ALL = (
    "reset on nopass ~rc:* &rc:* -@all +ping +select +client|setinfo +evalsha +eval +script|load +set"
    " +publish +subscribe +unsubscribe +get +del +pexpire +zadd +zremrangebyscore +zcard +time +xadd +xrange"
    " +xrevrange"
)
"""The rights that the README lists."""


@pytest.fixture(scope="module")
def guarded(worker_id: str) -> object:
    """One server for the module; each test sets the rights of the account that it uses."""
    del worker_id
    with ValkeyServer() as server:
        server.command("ACL", "SETUSER", "admin", "on", ">admin", "allcommands", "allkeys", "allchannels")
        yield server


def allow(server: ValkeyServer, *, less: str = "") -> str:
    """Give the account `rc` the rights that the README names, `less` one of them. Returns its URL."""
    rights = [word for word in ALL.split() if word != f"+{less}"]
    if less == "channels":
        rights.append("resetchannels")
    server.command("ACL", "SETUSER", "rc", *rights)
    return f"redis://rc:x@{server.host}:{server.port}/0"


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What operators see of refusals: the warnings of the Redis adapters."""
    records = [record for record in caplog.records if record.name.startswith("coordinator.redis")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


# ---- every right, refused from the beginning ------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "right"), [(Use.hints, right) for right in HINTS] + [(Use.events, right) for right in EVENTS]
)
async def test_missing_right_is_logged_once_with_its_name(
    guarded: ValkeyServer, caplog: pytest.LogCaptureFixture, use: Use, right: str
) -> None:
    link = RedisLink(allow(guarded, less=right), use=use, budget=5.0)
    while not link.away:
        assert not await link.ping()
    await asyncio.sleep(0.2)  # some attempts are made meanwhile: that they log nothing is what is tested
    (line,) = reasons(caplog)
    assert "the account lacks a permission" in line
    assert f"'{right}'" in line
    assert link.trouble is not None
    assert link.trouble in line
    assert not keys_without_ttl(guarded, "rc")
    allow(guarded)
    await wait_until(link.ping, description="healed", timeout=HEALS_WITHIN)
    assert link.trouble is None
    await link.aclose()


@pytest.mark.parametrize("right", ["eval", "script|load"])
@pytest.mark.parametrize("use", Use)
async def test_scripts_run_with_either_way_of_making_them_known(
    guarded: ValkeyServer, use: Use, right: str
) -> None:
    guarded.command("SCRIPT", "FLUSH")
    link = RedisLink(allow(guarded, less=right), use=use, budget=5.0)
    await wait_until(link.ping, description="connected")
    assert not link.away
    await link.aclose()


# ---- a right that is taken away while connected ---------------------------------------------------------


@pytest.mark.parametrize("right", ["publish", "set", "evalsha"])
async def test_right_taken_away_is_noticed_and_returned(
    guarded: ValkeyServer, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    async with notified(allow(guarded), "rc") as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        allow(guarded, less=right)
        await wait_until(
            lambda: worker.notifier.connectivity is not Connectivity.connected,
            description="suspected",
            timeout=NOTICED_WITHIN + 1,
        )
        await wait_until(lambda: reasons(caplog), description="logged")
        (line,) = reasons(caplog)
        assert f"'{right}'" in line
        allow(guarded)
        await until(worker, Connectivity.connected, HEALS_WITHIN + 0.5)


async def test_slot_never_stays_without_ttl(guarded: ValkeyServer) -> None:
    async with linked(allow(guarded), "rc") as link:
        lock = RedisSlotLock(link)
        lock.bind("t1", "r", fence=1)
        allow(guarded, less="pexpire")
        lock.bind("t1", "r", fence=2)
        lock.bind("t2", "r", fence=1)
        assert (await lock.admit("t2", "other")).holder == "r"
        assert not keys_without_ttl(guarded, "rc")
    allow(guarded)


async def test_refusal_of_one_key_costs_no_connection_and_is_logged_once(
    own_valkey: ValkeyServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(own_valkey.url, namespace) as link:
        own_valkey.command("LPUSH", link.keys.thread("t").slot.decode(), "x")
        lock = RedisSlotLock(link)
        for _ in range(3):
            await lock.admit("t", "r")
        (line,) = reasons(caplog)
        assert "refuses get" in line
        assert "WRONGTYPE" in line
        assert link.counters.refused == 3
        assert not link.away


# ---- a node of a Cluster --------------------------------------------------------------------------------


async def test_node_of_a_cluster_is_recognised_whichever_slots_it_has(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever slots the node has, also those of all the coordinator's own keys but the threads'."""
    with ValkeyServer("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no") as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", "0", "5460")
        keys = Keys(namespace)
        for key in (keys.workers, keys.worker(1).lease):
            slot = int(node.command("CLUSTER", "KEYSLOT", key.decode()).strip()[1:])
            node.command("CLUSTER", "ADDSLOTS", str(slot))
        for use in Use:
            link = RedisLink(node.url, namespace=namespace, use=use, budget=5.0)
            while not link.away:
                assert not await link.ping()
            await link.aclose()
            assert link.trouble is not None
        assert len(reasons(caplog)) == 2


# ---- what operators see ---------------------------------------------------------------------------------


@pytest.mark.parametrize("right", ["publish", "xadd", "channels"])
async def test_db_check_tries_what_workers_use(guarded: ValkeyServer, tmp_path: Path, right: str) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    await cli("db", "migrate", "--store", store)
    good = await cli("db", "check", "--store", store, "--redis", allow(guarded), "--json")
    assert (good.code, good.document["check"]["redis"]) == (0, "ok")
    bad = await cli("db", "check", "--store", store, "--redis", allow(guarded, less=right), "--json")
    assert (bad.code, bad.document["check"]["redis"]) == (UNREACHABLE, "unreachable")
    assert right.removesuffix("s") in bad.document["check"]["redis_error"]
    allow(guarded)


async def test_health_has_the_reason_why_event_logs_take_nothing_and_followers_get_the_gap(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    url = allow(own_valkey, less="xadd")
    async with team_of(1, tmp_path, redis=url) as (manager,):
        run, agent = await running(manager, "t")
        began = time.perf_counter()
        await agent.ctx.emit("custom", 1)
        assert time.perf_counter() - began < NOTICED_WITHIN
        health = await manager.worker.health()
        assert health.transport_error is not None
        assert health.transport_error.startswith("event logs: the account lacks a permission")
        assert health.connectivity is Connectivity.connected, "hints travel all the same"
        agent.may_end.set()
        items = await all_of(manager.follow(run.run_id))
        assert items[0] == Gap(None, None)
        assert isinstance(items[1], End)
        assert not items[1].complete


async def test_followers_elsewhere_get_a_gap_where_the_log_took_no_event(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with team_of(2, tmp_path, redis=allow(own_valkey, less="xadd")) as (owner, other):
        run, agent = await running(owner, "t")
        following = asyncio.create_task(all_of(other.follow(run.run_id)))
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        for items in (await following, await all_of(other.follow(run.run_id))):
            assert items[0] == Gap(None, None)
            assert isinstance(items[1], End)
            assert not items[1].complete


async def test_health_has_the_reason_why_hints_do_not_travel(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with team_of(1, tmp_path, redis=allow(own_valkey)) as (manager,):
        allow(own_valkey, less="publish")

        async def reported() -> bool:
            return "'publish'" in ((await manager.worker.health()).transport_error or "")

        await wait_until(reported, description="reported", timeout=NOTICED_WITHIN)
        assert manager.worker.connectivity is not Connectivity.connected
        allow(own_valkey)
