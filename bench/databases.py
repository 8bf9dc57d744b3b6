"""Where the benchmarks of PostgreSQL run: on the server that COORDINATOR_TEST_POSTGRES_URL names (a
superuser's, of nothing that matters), else on one of their own, with its syncs.

COORDINATOR_BENCH_SCALE=0.05 makes everything twenty times smaller, to try it out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import asyncpg

from coordinator.servers.postgres import URL_VARIABLE, PostgresServer
from stores.postgres import Options, PostgresStore

SCALE = float(os.environ.get("COORDINATOR_BENCH_SCALE", "1"))
SETTLES = 1.5  # s, until the server's statistics show what was done


def scaled(number: int, least: int = 1) -> int:
    return max(round(number * SCALE), least)


@contextmanager
def running_server() -> Generator[str]:
    if url := os.environ.get(URL_VARIABLE):
        yield url
        return
    with PostgresServer(settings={"shared_buffers": "256MB", "max_wal_size": "1GB"}) as server:
        yield server.url()


@asynccontextmanager
async def fresh_database(server: str) -> AsyncGenerator[str]:
    """A database of its own: its statistics are of what is measured, and of nothing else."""
    name = f"bench_{uuid4().hex[:12]}"
    await answer_of(server, f"CREATE DATABASE {name}")
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        await answer_of(server, f"DROP DATABASE {name} WITH (FORCE)")


async def answer_of(url: str, statement: str, *args: Any) -> Any:
    cx = await asyncpg.connect(url)
    try:
        return await cx.fetchval(statement, *args)
    finally:
        await cx.close()


@asynccontextmanager
async def open_stores(url: str, count: int, connections: int) -> AsyncGenerator[list[PostgresStore]]:
    async with AsyncExitStack() as stack:
        opened: list[PostgresStore] = []
        for _ in range(count):
            opened.append(PostgresStore(url, Options(connections=connections)))
            await opened[-1].open()
            stack.push_async_callback(opened[-1].aclose)
        yield opened
