"""The connections of one store in one event loop: pools of the driver, and the retries of a call.

A call is one statement, so that it is one transaction, and it is re-runnable with the same ids. So after
every transient fault the call is repeated for a bounded time, whether or not the outcome is known.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg

from stores.errors import ConnectionsBusy, StaleFence, StoreUnavailable
from stores.postgres import searches
from stores.postgres.driver import Pool, Pooled
from stores.postgres.faults import AGAIN, Fault, Kind, NotConnected, fault_of
from stores.postgres.hosts import Hosts
from stores.postgres.options import Options
from stores.postgres.silence import Silence
from stores.sql.postgres.calls import Call, Rows
from stores.sql.postgres.schema import named
from stores.sql.postgres.server import ISOLATION

logger = logging.getLogger(__name__)

T = TypeVar("T")

APPLICATION = "run-coordinator"
CONNECT_WITHIN = 5.0  # s, for each server that was named
_CONNECT_AT_LEAST = 1.0  # s, however long the search for a server has taken
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # s, between two attempts
_IDLE = 1.0  # s; a connection that was not used for longer is probed before it is used
_ANSWER_WITHIN = 2.0  # s, which is how long that may take
_CLOSE_WITHIN = 1.0  # s, once no call is under way
_GRACE = 2.0  # s; the server's own time-outs come first, for their errors name more


def session_settings(options: Options) -> dict[str, str]:
    """Of every session. JIT is off: no statement of the store is worth compiling, and where estimates are
    high, compiling takes longer than all else. Behind a pooler only settings are
    made that it tracks for each session."""
    settings = {"application_name": APPLICATION, "standard_conforming_strings": "on"}
    if options.statement_cache:
        settings |= {"default_transaction_isolation": ISOLATION, "jit": "off"}
    return settings


# Any: arguments of asyncpg.connect.
def connect_arguments(options: Options, *, longest: float, grace: float = _GRACE) -> dict[str, Any]:
    """For a connection (`Hosts.connect`) whose statements take `longest` s at most; the client gives them up
    `grace` s later. Behind a pooler nothing may depend on the session: then only the client's own clock
    bounds them."""
    settings = session_settings(options)
    if options.statement_cache:
        settings |= {
            "lock_timeout": f"{longest * 1000:.0f}",
            "statement_timeout": f"{(longest + grace / 2) * 1000:.0f}",
        }
    return {
        "timeout": CONNECT_WITHIN,
        "command_timeout": longest + grace,
        "statement_cache_size": options.statement_cache,
        "server_settings": settings,
    }


async def _nothing_to_reset(_: object) -> None:
    """No call changes its session."""


class Connections:
    """One pool. `longest` (s) bounds each call, with the time it waits for a connection. `for_reads`: how
    many connections only reads may use, because writes may wait for locked rows."""

    def __init__(
        self,
        hosts: Hosts,
        options: Options,
        *,
        size: int,
        longest: float,
        name: str,
        for_reads: int = 0,
    ) -> None:
        self._hosts, self._options = hosts, options
        self._size, self._longest, self._name = size, longest, name
        self._for_writes = asyncio.Semaphore(size - for_reads)
        self._pool: Pool | None = None
        self._named: dict[str, str] = {}
        self._under_way = 0
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._distrusted_at = float("-inf")
        self._silence = Silence(partial(self._connect, known=False), self._lost)
        self.calls = 0

    async def open(self) -> None:
        """Connects to nothing yet: a connection is made when it is needed, and closed when it is idle."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                min_size=0, max_size=self._size, reset=_nothing_to_reset, connect=self._connect
            )

    async def _connect(self, *_: object, known: bool = True, **__: object) -> Pooled:
        cx: Pooled = await self._hosts.connect(**connect_arguments(self._options, longest=self._longest))
        if known and self._options.statement_cache:  # else its session is another one for each statement
            try:
                cx.backend = await cx.fetchval("SELECT pg_backend_pid()")  # a pooler reports another number
            except BaseException:
                cx.terminate()
                raise
        return cx

    async def aclose(self) -> None:
        """Waits for calls that are under way, for at most `longest`."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._longest):
                    await self._at_rest.wait()
            with suppress(TimeoutError):  # the servers may be away and not answer a close
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await pool.close()
        finally:
            pool.terminate()
            await self._silence.aclose()

    async def run(
        self,
        call: Call[T],
        *,
        again: frozenset[Kind] = AGAIN,
        since: float | None = None,
        reads: bool = False,
    ) -> T:
        """Repeats the call after faults of the kinds `again`, within the bounds. `since`: when (loop time)
        the search for a server began, if that was before this call. `reads`: it writes nothing.

        Raises what the call's answer raises, StoreUnavailable, StoreRefused, SearchTooLong. A fence that is
        stale when a call is made again does not mean that the attempt whose answer was lost failed: that may
        have been written."""
        rows, lost = await self._rows(call, again, since, reads=reads)
        answer = call.answer if lost is None else call.again or call.answer
        try:
            return answer(rows)
        except StaleFence as refusal:
            if lost is None:
                raise
            raise lost.as_error(refusal) from refusal

    async def _rows(
        self, call: Call[object], again: frozenset[Kind], since: float | None, *, reads: bool
    ) -> tuple[Rows, Fault | None]:
        """Repeats the statement as often as needed, within the bounds; also why an attempt went unanswered,
        if one did."""
        loop = asyncio.get_running_loop()
        began, pause, lost = loop.time(), _FIRST_PAUSE, None
        looked_since = began if since is None else since
        while True:
            try:
                statement, args, until = call.statement.sql, call.args, began + self._longest
                async with nullcontext() if reads else self._place_for_a_write(until):
                    rows = await self.rows_once(statement, args, until, looked_since, longest=call.longest)
                return rows, lost
            except Exception as error:
                fault = fault_of(error)
                lost = fault if fault.unanswered else lost
                waited = loop.time() - (began if fault.kind is Kind.lock else looked_since)
                if fault.kind not in again or not self._patience_left(fault, waited + pause):
                    written = not reads and (lost is not None or call.unanswered)
                    raise fault.as_error(error, written=written) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _place_for_a_write(self, until: float) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout_at(until):
                await self._for_writes.acquire()
        except TimeoutError:
            raise self._busy() from None
        try:
            yield
        finally:
            self._for_writes.release()

    def _patience_left(self, fault: Fault, waited: float) -> bool:
        bound = self._longest if fault.kind is Kind.lock else min(self._longest, self._options.away_timeout)
        return waited < bound

    async def rows_once(
        self,
        sql: str,
        args: tuple[object, ...],
        until: float,
        since: float | None = None,
        *,
        longest: float | None = None,
    ) -> Rows:
        """Waits for a busy connection until `until` (loop time). Searches for a server for `away_timeout`
        from `since` on (loop time; None = now), at least for _CONNECT_AT_LEAST. Raises what the driver
        raises; NotConnected where no server was found in time, ConnectionsBusy where no connection became
        free."""
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("the store is not open", hint="Use `async with`, or open() it first.")
        self.calls += 1
        self._under_way += 1
        self._at_rest.clear()
        try:
            return await self._fetch(pool, sql, args, until, since, longest=longest)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._at_rest.set()

    async def _fetch(
        self,
        pool: Pool,
        sql: str,
        args: tuple[object, ...],
        until: float,
        since: float | None,
        *,
        longest: float | None,
    ) -> Rows:
        try:
            cx = await self._alive(pool, until, since)
        except Exception as error:
            if fault_of(error).kind is Kind.away:
                raise NotConnected from error
            raise
        if cx.backend:
            self._silence.began(cx)
        try:
            if longest is None:
                rows = await cx.fetch(self._sql(sql), *args)
            else:
                rows = await searches.fetch(cx, self._sql(sql), args, longest=longest)
        except TimeoutError:
            _end(cx)  # cancelling the statement would wait for the same server
            self._distrust()
            raise
        except Exception as error:
            if fault_of(error).kind is Kind.standby:
                await pool.expire_connections()  # the other connections lead to the same standby
            raise
        else:
            cx.touch()
            return rows
        finally:
            self._silence.over(cx)
            await pool.release(cx)

    async def _alive(self, pool: Pool, until: float, since: float | None) -> Pooled:
        """A connection that has answered a moment ago. A firewall may have dropped an idle one, and then it
        has dropped the others as well: a call that is sent on it would wait for its own bound."""
        while True:
            cx = await self._acquire(pool, until, since)
            usable = False
            try:
                usable = cx.used_at > self._distrusted_at and (
                    cx.idle_for() < _IDLE or await self._answers(cx)
                )
                if usable:
                    return cx
            finally:
                if not usable:
                    _end(cx)
                    await pool.release(cx)

    async def _answers(self, cx: Pooled) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await cx.execute("SELECT")
        except Exception as error:  # noqa: BLE001 - whatever it is, another connection is to be had
            logger.debug("A connection that was idle is given up: %r", error)
            self._distrust()
            return False
        cx.touch()
        return True

    def _lost(self, cx: Pooled) -> None:
        """The call on it is repeated, for it may not have arrived."""
        _end(cx)
        self._distrust()

    def _distrust(self) -> None:
        """Connections that have not answered since are not used again. Not `expire_connections`: that closes
        each in order, and waits for a server that may be away."""
        self._distrusted_at = asyncio.get_running_loop().time()

    async def _acquire(self, pool: Pool, until: float, since: float | None) -> Pooled:
        now = asyncio.get_running_loop().time()
        search_until = max(
            (now if since is None else since) + self._options.away_timeout, now + _CONNECT_AT_LEAST
        )
        for end in (min(search_until, until), until):
            try:
                return await pool.acquire(timeout=max(end - asyncio.get_running_loop().time(), 0.001))
            except TimeoutError:
                if pool.get_size() < self._size:
                    raise  # a new one could be made, and failed
        raise self._busy()

    def _busy(self) -> ConnectionsBusy:
        return ConnectionsBusy(
            f"all {self._size} connections ({self._name}) were busy for {self._longest:g} s",
            hint="Nothing was written. Check for locks, or allow more (postgres_connections).",
        )

    def _sql(self, sql: str) -> str:
        statement = self._named.get(sql)
        if statement is None:
            statement = named(sql, self._options.schema)
            if len(self._named) < 1000:  # some statements are put together for one call
                self._named[sql] = statement
        return statement


def _end(cx: Pooled) -> None:
    """Terminates the connection. One that the server has closed is back in the pool already, and refuses."""
    with suppress(asyncpg.InterfaceError):
        cx.terminate()
