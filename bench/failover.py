"""PostgreSQL fails over to a standby that lacks the last commits, so that runs are admitted on a thread
twice: how long both tasks run beside each other. All workers have the default settings.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from bench.databases import answer_of
from bench.report import Measure, at_most, median
from coordinator import RunContext, RunManager, Settings, StoreUnavailable, open_coordinator
from coordinator.servers.postgres import PostgresServer

FAILOVERS = 3  # in a round
_LOOK = 0.02  # s


async def run(rounds: int) -> list[Measure]:
    settings = Settings()
    took = [await _overlap() for _ in range(rounds * FAILOVERS)]
    longest = Measure("failover", "two tasks on a thread, longest", max(took), "s", note=f"of {len(took)}")
    middle = Measure("failover", "two tasks on a thread, median", median(took), "s")
    return [at_most(longest, settings.renew + 2 * settings.tick), middle]


async def _overlap() -> float:
    with PostgresServer() as primary:
        standby = primary.standby()
        try:
            hosts = ",".join(f"{server.host}:{server.port}" for server in (primary, standby))
            store = f"{primary.url().rpartition('@')[0]}@{hosts}/postgres"
            settings = Settings(store=store)
            async with (
                open_coordinator(settings=settings) as first,
                open_coordinator(settings=settings) as second,
            ):
                await asyncio.sleep(random.uniform(0, settings.renew))
                await _stop_following(primary, standby)
                _, stopped = await _held(first)
                primary.stop("immediate")
                standby.promote()
                began, _ = await _held(second)
                return max(await stopped - began, 0.0)
        finally:
            standby.close()


async def _held(manager: RunManager) -> tuple[float, asyncio.Future[float]]:
    """A run on the thread: when its task began, and will have ended."""
    loop = asyncio.get_running_loop()
    began: asyncio.Future[float] = loop.create_future()
    ended: asyncio.Future[float] = loop.create_future()

    async def hold(ctx: RunContext) -> None:
        del ctx
        began.set_result(time.perf_counter())
        try:
            await asyncio.Event().wait()
        finally:
            ended.set_result(time.perf_counter())

    while True:
        try:
            manager.launch(await manager.create_or_reject("t"), hold)
            return await began, ended
        except StoreUnavailable:
            await asyncio.sleep(_LOOK)


async def _stop_following(primary: PostgresServer, standby: PostgresServer) -> None:
    """The standby has all that was committed before, and receives nothing more."""
    position = await answer_of(primary.url(), "SELECT pg_current_wal_lsn()::text")
    await _until(standby, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position)
    await answer_of(standby.url(), "ALTER SYSTEM SET primary_conninfo = ''")
    await answer_of(standby.url(), "SELECT pg_reload_conf()")
    await _until(standby, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")


async def _until(server: PostgresServer, question: str, *args: Any) -> None:
    while not await answer_of(server.url(), question, *args):  # noqa: ASYNC110 - no event reports it
        await asyncio.sleep(_LOOK)
