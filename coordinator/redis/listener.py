"""The pub/sub connection: a set of channels that is subscribed on every new connection.

Messages that are published without a connection are lost. So every confirmed subscription is reported, and
its owner re-reads the store. Pattern subscriptions are not used.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from coordinator.redis.address import Address
from coordinator.redis.keeper import Keeper
from coordinator.redis.refusals import RefusedError, explain
from coordinator.redis.resp import Reply, ReplyError, pack
from coordinator.redis.wire import Wire

_GREETING_LIMIT = 0.5  # s
_BATCH = 500
"""Number of channels in one SUBSCRIBE command after the greeting."""


class ListenerCallbacks(Protocol):
    """Called on the event loop; must not block or raise."""

    def on_message(self, channel: bytes, payload: bytes) -> None: ...

    def on_subscribed(self, channel: bytes) -> None:
        """The subscription is confirmed: messages on `channel` arrive from now on, until the connection is
        lost."""
        ...

    def on_listening(self) -> None:
        """Connected, and the subscriptions of the first channels are confirmed."""
        ...

    def on_deaf(self) -> None:
        """The connection is lost, and the listener reconnects."""
        ...

    def on_away(self) -> None:
        """An attempt to connect failed."""
        ...


class Listener:
    """Connects when the first channel is added. Changes that are made in one turn of the loop are sent as one
    write."""

    def __init__(self, address: Address, callbacks: ListenerCallbacks) -> None:
        self._keeper = Keeper(address, self, subject="listener")
        self._callbacks = callbacks
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
        """Why the listener is away, for people; None = it is not."""
        return self._keeper.trouble

    @property
    def generation(self) -> int:
        """The number of connections so far."""
        return self._keeper.connects

    @property
    def silent(self) -> bool:
        """The last ping has not been answered."""
        return self._pings_unanswered > 0

    def is_confirmed(self, channel: bytes) -> bool:
        return channel in self._confirmed

    def add(self, channel: bytes, *, first: bool = False) -> None:
        """Subscribes to a channel on this and every later connection. `first`: in the greeting of a
        connection; the other channels follow in batches."""
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
        """Sends a PING on this connection; `silent` is True until the reply arrives."""
        if self._wire is not None:
            self._pings_unanswered += 1
            self._change(pack(b"PING"))

    def drop(self, why: str) -> None:
        """Replaces the connection."""
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

    # ---- callbacks of the keeper (see `keeper.ConnectionUser`) -----------------------------------------

    async def greet(self, wire: Wire) -> None:
        """Subscribes to the first channels. Replies arrive in order, so the reply to the PING confirms them.
        The number of other channels does not affect the duration. Raises RefusedError."""
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
        """No effect: the canary examines this connection."""

    def on_up(self, wire: Wire) -> None:
        self._callbacks.on_listening()
        self._subscribe_batch(wire)

    def _subscribe_batch(self, wire: Wire) -> None:
        """Subscribes to the next batch. It is called when the previous batch is confirmed, so that pings and
        new channels wait for one batch at most."""
        batch: list[bytes] = []
        while self._backlog and len(batch) < _BATCH:
            if (channel := self._backlog.pop()) in self._channels and channel not in self._confirmed:
                batch.append(channel)
        self._awaited = batch[-1] if batch else None
        if batch:
            wire.send(pack(b"SUBSCRIBE", *batch))

    def on_lost(self) -> None:
        self._wire = None
        self._changes.clear()
        self._confirmed.clear()
        self._greeted.set()
        self._callbacks.on_deaf()

    def on_away(self) -> None:
        self._callbacks.on_away()

    def on_replies(self, replies: list[Reply]) -> None:
        for reply in replies:
            match reply:
                case [b"message", bytes(channel), bytes(payload)]:
                    self._callbacks.on_message(channel, payload)
                case [b"subscribe", bytes(channel), *_] if channel in self._channels:
                    self._confirmed.add(channel)
                    self._callbacks.on_subscribed(channel)
                    self._continue_after(channel)
                case [b"subscribe", bytes(channel), *_]:
                    self._continue_after(channel)
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

    def _continue_after(self, channel: bytes) -> None:
        if channel == self._awaited and self._wire is not None:
            self._subscribe_batch(self._wire)
