"""What workers and runs cost one PostgreSQL and one Redis: the constants of the page "Sizing".

`python -m bench costs` measures and prints them; `python -m bench.costs [ROUNDS]` also writes
bench/costs.json, of which bench/sizing.py computes the tables of docs/guides/sizing.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import asyncpg

from bench.bare import connect
from bench.cpu import cpu_seconds, process_tree
from bench.databases import SCALE, SETTLES, fresh_database, running_server, scaled
from bench.fleet import Fleet, make
from bench.gateway import serving
from bench.http_floors import ENV, SERVED, Load, create_and_wait
from bench.http_floors import measured as measured_load
from bench.processes import workers
from bench.redis_commands import command_calls
from bench.report import Measure, median
from bench.throughput import ASSISTANTS, by_gateway, lives
from coordinator import open_coordinator
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from stores.postgres import PostgresStore

FILE = Path(__file__).with_name("costs.json")
TEAM = 4
IDLE_SECONDS = max(20 * SCALE, 4)
LISTENERS = 40
PEERS = 1_000

_STATEMENTS = (
    "SELECT sum(calls)::bigint, sum(calls) FILTER (WHERE query LIKE '%pg_notify(%')::bigint"
    " FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU in us of the server. An idle worker: per second."""

    idle_postgres_cpu: float
    idle_postgres_statements: float
    idle_postgres_connections: float
    idle_postgres_cpu_without_redis: float
    idle_notifications_without_redis: float
    wake_up_cpu: float
    """Of one NOTIFY, for each session that listens."""
    peer_cpu: float
    """Of one sweep, for each live worker of the installation."""
    idle_redis_commands: float
    idle_redis_cpu: float
    redis_connections: float
    run_postgres_cpu_alone: float
    """Of a run that a worker executes while it executes no other."""
    run_postgres_cpu_batched: float
    """Of a run among 50 at once."""
    run_wal: float
    """Bytes, with a small table."""
    run_notifications: float
    """Without Redis."""
    run_redis_commands: float
    run_redis_cpu: float
    run_worker_cpu: float
    """Of the worker, over HTTP, among 16 at once, with Redis."""

    @classmethod
    def read(cls) -> Self:
        return cls(**json.loads(FILE.read_text("utf-8")))


async def run(rounds: int) -> list[Measure]:
    costs = await measured(rounds)
    return [Measure("costs", name.replace("_", " "), value, "") for name, value in asdict(costs).items()]


async def measured(rounds: int) -> Costs:
    with running_server() as server, ValkeyServer() as valkey:
        rows = [await _round(server, valkey.url) for _ in range(rounds)]
    names = [field.name for field in fields(Costs)]
    return Costs(**{name: round(median([row[name] for row in rows]), 2) for name in names})


async def _round(server: str, redis: str) -> dict[str, float]:
    return {
        **await _idle(server, redis),
        **await _idle_without_redis(server),
        **await _runs_without_redis(server),
        **await _runs_with_redis(server, redis),
        "run_worker_cpu": await _over_http(server, redis),
        "wake_up_cpu": await _wake_up(server),
        "peer_cpu": await _peer(server),
    }


# ---- idle workers ----------------------------------------------------------------------------------------


async def _idle(server: str, redis: str) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        cx, url = await _database(stack, server)
        client = await stack.enter_async_context(connect(redis))
        before = len(await client.client_list())
        await stack.enter_async_context(workers(TEAM, url, redis))
        await asyncio.sleep(SETTLES)
        spent, on_redis = _Spent(cx), _RedisSpent(client)
        await spent.begin()
        await on_redis.begin()
        await asyncio.sleep(IDLE_SECONDS)
        commands, redis_cpu = await on_redis.end()
        cpu, statements, _, _ = await spent.end()
        sessions, connections = len(await _sessions(cx)), len(await client.client_list()) - before
    a_second = TEAM * IDLE_SECONDS
    return {
        "idle_postgres_cpu": cpu / a_second,
        "idle_postgres_statements": statements / a_second,
        "idle_postgres_connections": sessions / TEAM,
        "idle_redis_commands": commands / a_second,
        "idle_redis_cpu": redis_cpu / a_second,
        "redis_connections": connections / TEAM,
    }


async def _idle_without_redis(server: str) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        cx, url = await _database(stack, server)
        await stack.enter_async_context(workers(TEAM, url, None))
        await asyncio.sleep(SETTLES)
        spent = _Spent(cx)
        await spent.begin()
        await asyncio.sleep(IDLE_SECONDS)
        cpu, _, notifications, _ = await spent.end()
    a_second = TEAM * IDLE_SECONDS
    return {
        "idle_postgres_cpu_without_redis": cpu / a_second,
        "idle_notifications_without_redis": notifications / a_second,
    }


# ---- runs ------------------------------------------------------------------------------------------------


async def _runs_without_redis(server: str) -> dict[str, float]:
    costs: dict[str, float] = {}
    settings = (("alone", 1, scaled(300, 50)), ("batched", 50, scaled(2000, 200)))
    for name, at_once, runs in settings:
        async with AsyncExitStack() as stack:
            cx, url = await _database(stack, server)
            manager = await stack.enter_async_context(open_coordinator(url, assistants=ASSISTANTS))
            await lives(manager, by_gateway, at_once, max(runs // 10, 20))
            spent = _Spent(cx)
            await spent.begin()
            await lives(manager, by_gateway, at_once, runs)
            cpu, _, notifications, wal = await spent.end()
        costs[f"run_postgres_cpu_{name}"] = cpu / runs
        costs["run_notifications"] = notifications / runs
        costs["run_wal"] = wal / runs
    return costs


async def _runs_with_redis(server: str, redis: str) -> dict[str, float]:
    runs = scaled(2000, 200)
    async with AsyncExitStack() as stack:
        _, url = await _database(stack, server)
        client = await stack.enter_async_context(connect(redis))
        manager = await stack.enter_async_context(open_coordinator(url, redis=redis, assistants=ASSISTANTS))
        await lives(manager, by_gateway, 50, max(runs // 10, 20))
        spent = _RedisSpent(client)
        await spent.begin()
        await lives(manager, by_gateway, 50, runs)
        commands, cpu = await spent.end()
    return {"run_redis_commands": commands / runs, "run_redis_cpu": cpu / runs}


async def _over_http(server: str, redis: str) -> float:
    port, program = free_port(), str(Path(sys.executable).with_name("coordinator"))
    async with AsyncExitStack() as stack:
        _, url = await _database(stack, server)
        options = ("serve", "--port", str(port), "--store", url, "--redis", redis, *SERVED)
        processes = process_tree(await stack.enter_async_context(serving(port, program, *options, env=ENV)))
        for requests in (100, scaled(1000, 100)):  # the first ones warm up
            cost = await measured_load(Load(port, 16, requests, create_and_wait), processes)
        return cost.cpu


# ---- what grows with the number of workers -----------------------------------------------------------------


async def _wake_up(server: str) -> float:
    """us of CPU of one NOTIFY, for each session that listens to another channel."""
    count = scaled(300, 50)
    async with AsyncExitStack() as stack:
        cx, url = await _database(stack, server)
        for number in range(LISTENERS):
            listener = await asyncpg.connect(url)
            stack.push_async_callback(listener.close)
            await listener.execute(f"LISTEN channel_{number}")
        pids = await _sessions(cx)
        began = cpu_seconds(pids)
        for _ in range(count):
            await cx.execute("SELECT pg_notify('channel_0', '')")
            await asyncio.sleep(0.002)  # else one wake-up serves several
        return (cpu_seconds(pids) - began) / count / LISTENERS * 1e6


async def _peer(server: str) -> float:
    """us of CPU of the look at all live workers, for each of them."""
    count = scaled(60, 10)
    async with AsyncExitStack() as stack:
        cx, url = await _database(stack, server)
        await make(cx, "coordinator", Fleet(1_000, 1_000, PEERS, 100, in_flight=1_000, waiting=0))
        store = PostgresStore(url)
        await store.open()
        stack.push_async_callback(store.aclose)
        await store.workers(counted=False)
        pids = await _sessions(cx)
        began = cpu_seconds(pids)
        for _ in range(count):
            assert len(await store.workers(counted=False)) == PEERS
        return (cpu_seconds(pids) - began) / count / PEERS * 1e6


# ---- meters ------------------------------------------------------------------------------------------------


async def _database(stack: AsyncExitStack, server: str) -> tuple[asyncpg.Connection[Any], str]:
    """A migrated database of its own, and a connection from which its other sessions are watched."""
    url = await stack.enter_async_context(fresh_database(server))
    store = PostgresStore(url)
    await store.open()
    await store.aclose()
    cx = await asyncpg.connect(url)
    stack.push_async_callback(cx.close)
    await cx.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    return cx, url


async def _sessions(cx: asyncpg.Connection[Any]) -> list[int]:
    rows = await cx.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return [row["pid"] for row in rows]


class _Spent:
    """Of all other sessions of the database: CPU (us), statements, notifications, bytes of WAL."""

    def __init__(self, cx: asyncpg.Connection[Any]) -> None:
        self._cx = cx

    async def _now(self) -> tuple[dict[int, float], int, int, int]:
        counts = await self._cx.fetchrow(_STATEMENTS)
        assert counts is not None
        wal = await self._cx.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        cpu = {pid: cpu_seconds([pid]) for pid in await _sessions(self._cx)}
        return cpu, int(counts[0] or 0), int(counts[1] or 0), int(wal)

    async def begin(self) -> None:
        await self._cx.execute("CHECKPOINT")
        self._before = await self._now()

    async def end(self) -> tuple[float, int, int, int]:
        cpu, *counts = await self._now()
        earlier, *before = self._before
        spent = sum(seconds - earlier.get(pid, 0) for pid, seconds in cpu.items()) * 1e6
        statements, notifications, wal = (now - then for now, then in zip(counts, before, strict=True))
        return spent, statements, notifications, wal


class _RedisSpent:
    """Commands, and CPU (us) of the server."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def _now(self) -> tuple[int, float]:
        cpu = await self._client.info("cpu")
        calls = sum((await command_calls(self._client)).values())
        return calls, (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6

    async def begin(self) -> None:
        self._before = await self._now()

    async def end(self) -> tuple[int, float]:
        calls, cpu = await self._now()
        return calls - self._before[0], cpu - self._before[1]


if __name__ == "__main__":
    began = time.monotonic()
    written = asdict(asyncio.run(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
    FILE.write_text(json.dumps(written, indent=2) + "\n", "utf-8")
    print(f"{FILE} is written after {time.monotonic() - began:.0f} s")
