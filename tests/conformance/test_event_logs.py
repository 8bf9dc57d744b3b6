from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from coordinator.event_log import Appended, EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.event_logs.redis import RedisEventLog
from coordinator.testing.valkey import ValkeyServer
from tests.conformance.event_logs import CLAUSES, Clause, entry, ids
from tests.support.linked import linked
from tests.support.teams import keys_without_ttl

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def in_redis(server: ValkeyServer, namespace: str) -> AsyncGenerator[RedisEventLog]:
    async with linked(server.url, namespace, budget=2.0) as link:
        yield RedisEventLog(link, ttl=60)


@pytest.fixture(params=["local", "redis"])
async def log(
    request: pytest.FixtureRequest, shared_valkey: ValkeyServer, namespace: str
) -> AsyncGenerator[EventLog]:
    if request.param == "local":
        yield LocalEventLog()
    else:
        async with in_redis(shared_valkey, namespace) as made:
            yield made
        assert not keys_without_ttl(shared_valkey, namespace)


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
async def test_event_log(log: EventLog, clause: Clause) -> None:
    await clause(log)


async def test_the_slot_refuses_an_older_fence_before_the_new_one_has_emitted(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with in_redis(shared_valkey, namespace) as log:
        await log.append("t", "old", entry(4, 1))
        shared_valkey.command("HSET", f"{namespace}:{{t:t}}:slot", "run", "new", "fence", "5")
        assert await log.append("t", "old", entry(4, 2)) is Appended.stale
        assert await log.append("t", "beside", entry(0, 1)) is Appended.done
        assert await ids(log, "old") == ["4-1"]
        shared_valkey.command("DEL", f"{namespace}:{{t:t}}:slot")


async def test_what_others_wrote_into_the_stream_cannot_be_read(
    shared_valkey: ValkeyServer, namespace: str
) -> None:
    async with in_redis(shared_valkey, namespace) as log:
        key = f"{namespace}:{{t:t}}:log:r"
        shared_valkey.command("XADD", key, f"{2**64 - 1}-1", "custom", "{}")
        shared_valkey.command("PEXPIRE", key, "60000")
        assert await log.read("t", "r", None, 10) is None
        assert await log.append("t", "r", entry(1, 1)) is Appended.stale


async def test_the_local_logs_of_a_process_are_bounded_together() -> None:
    log = LocalEventLog(memory=10_000)
    for number in range(1, 11):
        for run in ("a", "b", "c"):
            await log.append("t", run, entry(1, number, '"' + "x" * 200 + '"'))
    await log.append("t", "d", entry(1, 1, '"' + "x" * 9_000 + '"'))
    assert [await ids(log, run) for run in ("a", "b", "c", "d")] == [[], [], [], ["1-1"]]
