"""A statement that the server itself stops: else it would continue for a client that does not wait any
more."""

from __future__ import annotations

import asyncio

import asyncpg

from stores.errors import SearchTooLong
from stores.postgres.driver import Connection
from stores.sql.postgres.calls import Rows

_END_WITHIN = 2.0  # s; the statement has been stopped by then


async def fetch(cx: Connection, sql: str, args: tuple[object, ...], *, longest: float) -> Rows:
    """In a transaction of its own that sets its limits, so that they hold behind a pooler too: a statement
    timeout, and no parallel workers, so that other clients keep the server's cores. A cancel is passed on to
    the server. Raises SearchTooLong, and what the driver raises; the connection can be used again afterwards,
    or is closed."""
    await cx.execute(
        f"BEGIN READ ONLY; SET LOCAL statement_timeout = {longest * 1000:.0f};"
        " SET LOCAL max_parallel_workers_per_gather = 0"
    )
    try:
        return await cx.fetch(sql, *args)
    except asyncpg.QueryCanceledError as error:
        raise SearchTooLong(longest) from error
    finally:
        await _end(cx)


async def _end(cx: Connection) -> None:
    try:
        async with asyncio.timeout(_END_WITHIN):
            await cx.execute("ROLLBACK")
    except BaseException:
        cx.terminate()
        raise
