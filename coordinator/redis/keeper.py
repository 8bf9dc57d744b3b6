"""The keeper of one connection: it connects, probes, backs off and reconnects until it is closed.

It is a circuit breaker as well. The circuit is open (`away`) from a failed attempt, or from `trip`, until a
new connection has passed the greeting of its user: the half-open probe, for which no caller waits.

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
from coordinator.redis.error_text import describe
from coordinator.redis.resp import Reply
from coordinator.redis.wire import Wire, open_wire
from stores.tasks import begin_soon

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.05  # s
_LONGEST_DELAY = 0.5  # s
MOVE_CHECK_INTERVAL = 5.0
"""Seconds between two checks whether a new connection would go to another server."""

_MIN_STAY = 30.0  # s between two moves
_STABLE_AFTER = 1.0
"""Seconds that a connection must have lived to be replaced without a pause."""


class ConnectionUser(Protocol):
    """The user of the kept connection. Its methods are called on the event loop and must not block. Only
    `greet` and `examine` may raise."""

    async def greet(self, wire: Wire) -> None:
        """Makes the first exchange, within a timeout of its own. Raises if the server is unusable now."""
        ...

    async def examine(self, wire: Wire) -> None:
        """Probes the server, after `Keeper.examine_soon`. Raises if the server has become unusable."""
        ...

    def on_up(self, wire: Wire) -> None: ...

    def on_replies(self, replies: list[Reply]) -> None: ...

    def on_lost(self) -> None:
        """The connection is closed. Commands without a reply are lost with it."""
        ...

    def on_away(self) -> None:
        """The circuit is open."""
        ...


class Keeper:
    """Reconnects within 2 s after an unavailable server has returned: one attempt and one delay. `subject` is
    the name of the connection in logs."""

    def __init__(self, address: Address, user: ConnectionUser, *, subject: str) -> None:
        self._address = address
        self._user = user
        self._subject = subject
        self._task: asyncio.Task[None] | None = None
        self._current: Wire | None = None
        self._trouble_since: float | None = None
        self.wire: Wire | None = None
        """The greeted connection; None = there is none now."""
        self.away = False
        self.trouble: str | None = None
        """Why the circuit is open."""
        self.connects = 0
        self._wake = asyncio.Event()
        self._stays_until = 0.0

    def start(self) -> None:
        """Starts to connect. Idempotent. Must be called on the event loop."""
        if self._task is None:
            # A new context, because the current one is that of the first request.
            name = f"redis {self._subject}"
            self._task = begin_soon(self._keep(), name=name, context=Context())

    def drop(self, why: str) -> None:
        """Replaces the connection; without a pause if it was stable."""
        if self._current is not None:
            self._current.abort(why)

    def trip(self, why: str) -> None:
        """Replaces the connection, and opens the circuit until the new one has been greeted.

        Reconnects after a short pause, because all clients of a server that stalls trip at the same time.
        """
        self.drop(why)
        self._open_circuit(why)

    def examine_soon(self) -> None:
        """Schedules `examine` of the user. If that raises, the connection is replaced as by `trip`."""
        self._wake.set()

    async def aclose(self) -> None:
        """Closes the connection, and does not reconnect. Idempotent."""
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
        """Makes one connection, waits until it is lost, and returns how long it was up (s)."""
        loop = asyncio.get_running_loop()
        try:
            wire = await self._connect()
        except Exception as error:  # noqa: BLE001 - no error may prevent the next attempt
            self._open_circuit(self._describe(error))
            return 0.0
        connected_at = loop.time()
        move_checks = begin_soon(self._check_for_moves(wire), name=f"redis {self._subject}: move checks")
        try:
            self._close_circuit(wire)
            await self._until_lost(wire)
        finally:
            move_checks.cancel()
            self.wire = None
            await wire.aclose()
            self._current = None
            await asyncio.wait([move_checks])  # it may have a connection to a sentinel to close
        lived = loop.time() - connected_at
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
                    await self._user.examine(wire)
                except Exception as error:  # noqa: BLE001 - as after a failed greeting
                    self.trip(self._describe(error))

    async def _check_for_moves(self, wire: Wire) -> None:
        """Drops the connection when the name or the sentinels lead to another server. At most once within
        `_MIN_STAY`, because some names resolve to other addresses at every look-up."""
        loop = asyncio.get_running_loop()
        while not wire.lost:
            await asyncio.sleep(MOVE_CHECK_INTERVAL * random.uniform(0.8, 1.0))
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    why = await self._address.moved_from(wire.opened)
            except (OSError, RedisError):
                continue
            if why is not None and loop.time() >= self._stays_until:
                self._stays_until = loop.time() + _MIN_STAY
                server = wire.opened.server
                _log.warning("Redis has moved: %s; the %s (%s) reconnects", why, self._subject, server)
                wire.abort(f"it has moved: {why}")

    def _describe(self, error: Exception) -> str:
        return describe(error, CONNECT_LIMIT, tls=self._address.tls)

    async def _connect(self) -> Wire:
        async with asyncio.timeout(CONNECT_LIMIT):
            wire = await open_wire(self._address, self._user.on_replies, self._on_lost)
        self._current = wire
        try:
            await self._user.greet(wire)
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
        self._user.on_lost()

    def _open_circuit(self, why: str) -> None:
        self.trouble = why
        if self._trouble_since is None:
            self._trouble_since = asyncio.get_running_loop().time()
            _log.warning(
                "Redis is away for the %s (%s): %s. This worker continues without it and retries",
                self._subject,
                self._address.redacted,
                why,
            )
        else:
            _log.debug("Redis is still away for the %s: %s", self._subject, why)
        if not self.away:
            self.away = True
            self._user.on_away()

    def _close_circuit(self, wire: Wire) -> None:
        self.connects += 1
        self.away = False
        self.trouble = None
        self.wire = wire
        if self._trouble_since is not None:
            lasted = asyncio.get_running_loop().time() - self._trouble_since
            self._trouble_since = None
            url = self._address.redacted
            _log.info("Redis is back for the %s (%s) after %.1f s", self._subject, url, lasted)
        self._user.on_up(wire)
