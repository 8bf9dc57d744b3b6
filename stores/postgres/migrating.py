"""Migrates while workers and other clients run: in attempts that wait briefly for locks and name the
holders."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

import asyncpg

from stores.errors import StoreRefused, StoreUnavailable
from stores.postgres.driver import Connection
from stores.sql.columns import Columns
from stores.sql.postgres import schema as schemas
from stores.sql.postgres.calls import Rows
from stores.tasks import begin_soon

Connect = Callable[[], AbstractAsyncContextManager[Connection]]
Report = Callable[[str], None]

LOOK_EVERY = 0.2
"""Seconds between two reads of the blocking sessions."""

_PAUSE = 2.0  # s, between two attempts: what has queued behind one continues
_TAKE_AWAY = 5.0  # s, for a read that is under way when its attempt ends
_BLOCKERS = (
    "SELECT pid, usename::text, application_name, state, query_start FROM pg_stat_activity"
    " WHERE pid = ANY (pg_blocking_pids($1)) ORDER BY pid"
)


async def migrate(
    connect: Connect,
    schema: str,
    *,
    repair: bool,
    unasked: bool,
    patience: float,
    report: Report,
) -> list[str]:
    """See `stores.sql.postgres.schema.migrate`. Tries for `patience` s to take the locks; `report` receives a
    line for each blocking session. Raises StoreUnavailable, StoreRefused."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    watched = Watched(connect, report)
    while True:
        async with AsyncExitStack() as stack:
            cx = await stack.enter_async_context(connect())
            try:
                return await schemas.migrate(cx, schema, repair=repair, unasked=unasked, begun=watched.begin)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                pass
            except asyncpg.InsufficientPrivilegeError as error:
                raise StoreRefused(await _forbidden(cx, schema, error)) from None
            finally:
                await watched.end()
        if loop.time() >= until:
            raise StoreUnavailable(
                f"schema {schema!r} was not migrated within {patience:g} s, for {watched.named or 'locks'}"
                " was in the way",
                hint="Nothing was changed. End that session, or try again with more time (--wait).",
            )
        await asyncio.sleep(_PAUSE * random.uniform(0.75, 1.25))


async def _forbidden(cx: Connection, schema: str, error: Exception) -> str:
    outdated = await schemas.outdated(cx, schema) or f"schema {schema!r} was changed"
    return f"{outdated}, and this role may not change it: run `coordinator db migrate` as its owner ({error})"


class Watched:
    """The sessions that block a session, read over another connection."""

    def __init__(self, connect: Connect, report: Report) -> None:
        self._connect, self._report = connect, report
        self._task: asyncio.Task[None] | None = None
        self._reported = set[int]()
        self.named = ""
        """The blocking sessions of the last read."""

    def begin(self, pid: int) -> None:
        self._task = begin_soon(self._watch(pid))

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=_TAKE_AWAY)

    async def _watch(self, pid: int) -> None:
        await asyncio.sleep(LOOK_EVERY)  # usually no session blocks it
        with suppress(Exception):  # it only reports, and the server may have no connection to spare
            async with self._connect() as eye:
                while True:
                    self._saw(await eye.fetch(_BLOCKERS, pid))
                    await asyncio.sleep(LOOK_EVERY)

    def _saw(self, rows: Rows) -> None:
        if not rows:
            return
        self.named = ", ".join(_session(row) for row in rows)
        if fresh := [row for row in rows if row[0] not in self._reported]:
            self._reported.update(row[0] for row in rows)
            self._report(f"the migration waits for {', '.join(_session(row) for row in fresh)}")


def _session(row: Columns) -> str:
    pid, role, application, state, since = row
    doing = f", {state} since {since:%Y-%m-%d %H:%M:%S %Z}" if since is not None else ""
    return f"session {pid} of {role!r} ({application or 'no name'!r}{doing})"
