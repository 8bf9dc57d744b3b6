"""Keeps one connection open for ever: connects, probes, backs off, connects again.

This is the circuit breaker as well. The circuit is open (`away`) from a failed attempt, or from `trip`, until
a new connection has passed its tenant's greeting: the half-open probe, for which no caller waits.

    idle ──start──> connecting ──greeted──> up ──lost──> connecting        calls wait, within their own limits
                        └─failed─> away ──greeted──> up ──trip──> away     calls are answered at once
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextvars import Context
from typing import Protocol

from redis.exceptions import RedisError

from coordinator.redis.address import CONNECT_LIMIT, Address
from coordinator.redis.resp import Reply
from coordinator.redis.wire import Wire, open_wire
from coordinator.redis.words import words_of
from stores.tasks import begin_soon

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 0.5
LOOKS_AGAIN = 5.0
"""How often (s) an open connection is compared with where a new one would go."""

_STAYS = 30.0
_STABLE_AFTER = 1.0
"""Seconds a connection must have lived for its loss to be answered without a pause."""


class Tenant(Protocol):
    """Who uses the kept connection. Called on the event loop; none may block, and none but `greet` raise."""

    async def greet(self, wire: Wire) -> None:
        """The first exchange. Raises where this server is of no use now. Limited in time by the tenant."""
        ...

    async def examine(self, wire: Wire) -> None:
        """Asked for by `Keeper.examine_soon`. Raises where this server is of no use any more."""
        ...

    def on_up(self, wire: Wire) -> None: ...

    def on_replies(self, replies: list[Reply]) -> None: ...

    def on_lost(self) -> None:
        """The connection is gone, and with it all that was sent and not answered."""
        ...

    def on_away(self) -> None:
        """The circuit is open."""
        ...


class Keeper:
    """From the lost server's return to an open connection takes less than 2 s: one attempt and one delay."""

    def __init__(self, address: Address, tenant: Tenant, *, subject: str) -> None:
        self._address = address
        self._tenant = tenant
        self._subject = subject
        self._task: asyncio.Task[None] | None = None
        self._current: Wire | None = None
        self._trouble_since: float | None = None
        self.wire: Wire | None = None
        """The greeted connection, if there is one."""
        self.away = False
        self.trouble: str | None = None
        """Why the circuit is open."""
        self.connects = 0
        self._wake = asyncio.Event()
        self._stays_until = 0.0

    def start(self) -> None:
        """Idempotent. Needs a running loop."""
        if self._task is None:
            # In a context of its own: not in that of the request which happened to come first.
            name = f"redis {self._subject}"
            self._task = begin_soon(self._keep(), name=name, context=Context())

    def drop(self, why: str) -> None:
        """Replace the connection; at once if it was stable."""
        if self._current is not None:
            self._current.abort(why)

    def trip(self, why: str) -> None:
        """Replace the connection, and answer callers at once until the new one has been greeted.

        Not without a short pause: a server that stalls is tripped over by all its clients together.
        """
        self.drop(why)
        self._open_circuit(why)

    def examine_soon(self) -> None:
        """Have the tenant examine the connection; it is replaced, as by `trip`, if that fails."""
        self._wake.set()

    async def aclose(self) -> None:
        """Idempotent. Nothing is kept afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _keep(self) -> None:
        delay = _FIRST_DELAY
        while True:
            lived = await self._live_once()
            if lived >= _STABLE_AFTER:
                delay = _FIRST_DELAY
            if self.away:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _LONGEST_DELAY)

    async def _live_once(self) -> float:
        """One connection from beginning to end. How many seconds it was up."""
        loop = asyncio.get_running_loop()
        try:
            wire = await self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt must come
            self._open_circuit(self._words(error))
            return 0.0
        born = loop.time()
        checks = begin_soon(self._look_again(wire), name=f"redis {self._subject}: has it moved")
        try:
            self._close_circuit(wire)
            await self._until_lost(wire)
        finally:
            checks.cancel()
            self.wire = None
            await wire.aclose()
            self._current = None
            await asyncio.wait([checks])  # cancelled, and perhaps in the middle of a question to sentinels
        lived = loop.time() - born
        if lived < _STABLE_AFTER:
            self._open_circuit(wire.why)
        return lived

    async def _until_lost(self, wire: Wire) -> None:
        self._wake.clear()
        while not wire.lost:
            await self._wake.wait()
            self._wake.clear()
            if not wire.lost:
                try:
                    await self._tenant.examine(wire)
                except Exception as error:  # noqa: BLE001 - as in a greeting
                    self.trip(self._words(error))

    async def _look_again(self, wire: Wire) -> None:
        """Drop a connection to a server that new connections would not go to: a name or the sentinels name
        another. Not twice within a short time: the addresses of some names change with every answer."""
        loop = asyncio.get_running_loop()
        while not wire.lost:
            await asyncio.sleep(LOOKS_AGAIN * random.uniform(0.8, 1.0))
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    why = await self._address.moved_from(wire.opened)
            except (OSError, RedisError):
                continue
            if why is not None and loop.time() >= self._stays_until:
                self._stays_until = loop.time() + _STAYS
                where = wire.opened.place
                _log.warning("Redis has moved: %s; the %s (%s) connects anew", why, self._subject, where)
                wire.abort(f"it has moved: {why}")

    def _words(self, error: Exception) -> str:
        return words_of(error, CONNECT_LIMIT, tls=self._address.tls)

    async def _connect(self) -> Wire:
        async with asyncio.timeout(CONNECT_LIMIT):
            wire = await open_wire(self._address, self._tenant.on_replies, self._on_lost)
        self._current = wire
        try:
            await self._tenant.greet(wire)
            if wire.lost:
                raise ConnectionError(wire.why)
        except BaseException:
            await wire.aclose()
            self._current = None
            self._address.distrust(wire.opened)
            raise
        return wire

    def _on_lost(self) -> None:
        self.wire = None
        self._wake.set()
        self._tenant.on_lost()

    def _open_circuit(self, why: str) -> None:
        self.trouble = why
        if self._trouble_since is None:
            self._trouble_since = asyncio.get_running_loop().time()
            _log.warning("Redis is away for the %s (%s): %s", self._subject, self._address.redacted, why)
        else:
            _log.debug("Redis is still away for the %s: %s", self._subject, why)
        if not self.away:
            self.away = True
            self._tenant.on_away()

    def _close_circuit(self, wire: Wire) -> None:
        self.connects += 1
        self.away = False
        self.trouble = None
        self.wire = wire
        if self._trouble_since is not None:
            lasted = asyncio.get_running_loop().time() - self._trouble_since
            self._trouble_since = None
            where = self._address.redacted
            _log.info("Redis is back for the %s (%s) after %.1f s", self._subject, where, lasted)
        self._tenant.on_up(wire)
