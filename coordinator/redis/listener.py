"""The pub/sub connection: a set of channels that is subscribed to whenever there is a connection.

What is published while there is none is gone, so every confirmed subscription is reported: who listens then
re-reads. Patterns are never used.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from coordinator.redis.address import Address
from coordinator.redis.keeper import Keeper
from coordinator.redis.refusals import RefusedError, explain
from coordinator.redis.resp import Reply, ReplyError, pack
from coordinator.redis.wire import Wire

_GREETING_LIMIT = 0.5
_PIECE = 500
"""Channels that are subscribed to with one command after the greeting."""


class Audience(Protocol):
    """Who listens. Called on the event loop; none of these may block or raise."""

    def on_message(self, channel: bytes, payload: bytes) -> None: ...

    def on_subscribed(self, channel: bytes) -> None:
        """From here on what is published on `channel` arrives, for as long as this connection stands."""
        ...

    def on_listening(self) -> None:
        """Connected, and the first channels confirmed."""
        ...

    def on_deaf(self) -> None:
        """The connection is gone. Another is on its way."""
        ...

    def on_away(self) -> None:
        """There is nothing to connect to at present."""
        ...


class Listener:
    """Connects when the first channel is added. Changes made in one turn of the loop leave as one write."""

    def __init__(self, address: Address, audience: Audience) -> None:
        self._keeper = Keeper(address, self, subject="listener")
        self._audience = audience
        self._channels: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._first: set[bytes] = set()
        self._backlog: list[bytes] = []
        self._awaited: bytes | None = None
        self._changes: list[bytes] = []
        self._wire: Wire | None = None
        self._pings_unanswered = 0
        self._greeted = asyncio.Event()
        self._refusal = ""
        self._closed = False

    @property
    def listening(self) -> bool:
        return self._keeper.wire is not None

    @property
    def away(self) -> bool:
        return self._keeper.away or self._closed

    @property
    def trouble(self) -> str | None:
        """Why it is away."""
        return self._keeper.trouble

    @property
    def generation(self) -> int:
        """Grows with every connection."""
        return self._keeper.connects

    @property
    def silent(self) -> bool:
        """The last ping has not been answered."""
        return self._pings_unanswered > 0

    def is_confirmed(self, channel: bytes) -> bool:
        return channel in self._confirmed

    def add(self, channel: bytes, *, first: bool = False) -> None:
        """`first`: it is part of the greeting of a new connection. All others follow, some at a time."""
        if self._closed:
            return
        if first:
            self._first.add(channel)
        self._keeper.start()
        if channel not in self._channels:
            self._channels.add(channel)
            self._change(pack(b"SUBSCRIBE", channel))

    def remove(self, channel: bytes) -> None:
        if channel in self._channels:
            self._channels.discard(channel)
            self._first.discard(channel)
            self._confirmed.discard(channel)
            self._change(pack(b"UNSUBSCRIBE", channel))

    def ping(self) -> None:
        """Ask the server for a sign of life on this very connection; `silent` until it comes."""
        if self._wire is not None:
            self._pings_unanswered += 1
            self._change(pack(b"PING"))

    def drop(self, why: str) -> None:
        """Give this connection up and make another."""
        self._keeper.drop(why)

    async def aclose(self) -> None:
        """Idempotent."""
        self._closed = True
        await self._keeper.aclose()

    def _change(self, command: bytes) -> None:
        if self._wire is not None:
            if not self._changes:
                asyncio.get_running_loop().call_soon(self._flush)
            self._changes.append(command)

    def _flush(self) -> None:
        changes, self._changes = self._changes, []
        if self._wire is not None and changes:
            self._wire.send(b"".join(changes))

    # ---- what the keeper tells (see `keeper.Tenant`) ---------------------------------------------------

    async def greet(self, wire: Wire) -> None:
        """Subscribe to the first channels. The server answers in order, so its pong means that they are
        confirmed. How many others there are has no influence on how long this takes."""
        self._wire = wire
        self._greeted.clear()
        self._refusal = "no answer to the greeting"
        self._pings_unanswered = 1
        self._backlog = list(self._channels - self._first)
        self._awaited = None
        if self._first:
            wire.send(pack(b"SUBSCRIBE", *self._first))
        wire.send(pack(b"PING"))
        try:
            async with asyncio.timeout(_GREETING_LIMIT):
                await self._greeted.wait()
        except TimeoutError:
            raise RefusedError(f"no answer to the greeting within {_GREETING_LIMIT:g} s") from None
        if wire.lost:
            raise RefusedError(self._refusal)

    async def examine(self, wire: Wire) -> None:
        """The canary does."""

    def on_up(self, wire: Wire) -> None:
        self._audience.on_listening()
        self._subscribe_some(wire)

    def _subscribe_some(self, wire: Wire) -> None:
        """The next ones go out when these are confirmed: pings and new channels never wait behind all of
        them."""
        piece: list[bytes] = []
        while self._backlog and len(piece) < _PIECE:
            if (channel := self._backlog.pop()) in self._channels and channel not in self._confirmed:
                piece.append(channel)
        self._awaited = piece[-1] if piece else None
        if piece:
            wire.send(pack(b"SUBSCRIBE", *piece))

    def on_lost(self) -> None:
        self._wire = None
        self._changes.clear()
        self._confirmed.clear()
        self._greeted.set()
        self._audience.on_deaf()

    def on_away(self) -> None:
        self._audience.on_away()

    def on_replies(self, replies: list[Reply]) -> None:
        for reply in replies:
            match reply:
                case [b"message", bytes(channel), bytes(payload)]:
                    self._audience.on_message(channel, payload)
                case [b"subscribe", bytes(channel), *_] if channel in self._channels:
                    self._confirmed.add(channel)
                    self._audience.on_subscribed(channel)
                    self._go_on_after(channel)
                case [b"subscribe", bytes(channel), *_]:
                    self._go_on_after(channel)
                case [b"unsubscribe", bytes(channel), *_]:
                    self._confirmed.discard(channel)
                case [b"pong", *_] | b"PONG":
                    self._pings_unanswered = max(0, self._pings_unanswered - 1)
                    self._greeted.set()
                case ReplyError():
                    self._refusal = explain(reply)
                    self._keeper.trip(self._refusal)
                    return
                case _:
                    pass

    def _go_on_after(self, channel: bytes) -> None:
        if channel == self._awaited and self._wire is not None:
            self._subscribe_some(self._wire)
