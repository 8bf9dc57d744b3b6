"""The canary detects a dead connection of the abort channel, which cannot be distinguished from an idle one
otherwise.

Each period the worker renews its presence, publishes `hb:<n>` to itself (script `beat`), and pings the
pub/sub connection. The connection is suspected when the beat had no receiver, or when the beat or the pong
did not arrive in two periods. While the link is away no beat is sent, and only the pong counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context

from coordinator.redis.link import RedisLink
from coordinator.redis.listener import Listener
from coordinator.redis.scripts import beat, enlist
from stores.tasks import begin_soon

_PREFIX = b"hb:"
_MISSES = 2


class Canary:
    """Detects a dead connection within three periods. In each period, `on_link` is called with whether the
    link answered, and `on_received` when the worker's own message arrived."""

    def __init__(
        self,
        link: RedisLink,
        listener: Listener,
        *,
        period: float,
        lease_ttl: float,
        on_suspicion: Callable[[str], None],
        on_received: Callable[[], None],
        on_link: Callable[[bool], None],
    ) -> None:
        self._link = link
        self._listener = listener
        self._period = period
        self._ttl_ms = int(lease_ttl * 1000)
        self._enlist_every = max(1, int(lease_ttl / 3 / period))
        self._on_suspicion = on_suspicion
        self._on_received = on_received
        self._on_link = on_link
        self._task: asyncio.Task[None] | None = None
        self._epoch = 0
        self._seq = 0
        self._awaited: bytes | None = None
        self._generation = 0
        self._misses = 0

    def follow(self, epoch: int) -> None:
        """Sends canaries for this worker from now on. Must be called on the event loop."""
        self._epoch = epoch
        self._seq = 0
        self._awaited = None
        if self._task is None:
            self._task = begin_soon(self._send_canaries(), name="redis canary", context=Context())

    def receive(self, payload: bytes) -> bool:
        """Handles a message of the abort channel. Returns whether it is a canary, including late and forged
        ones."""
        if not payload.startswith(_PREFIX):
            return False
        if payload == self._awaited:
            self._awaited = None
            self._on_received()
        return True

    async def aclose(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _send_canaries(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._check_connection()
            await self._beat()
            pause = self._period * random.uniform(0.9, 1.0)
            await asyncio.sleep(max(0.0, began + pause - loop.time()))

    def _check_connection(self) -> None:
        if self._generation != self._listener.generation or not self._listener.listening:
            self._generation = self._listener.generation
            self._awaited = None
            self._misses = 0
        elif self._awaited is None and not self._listener.silent and self._is_subscribed():
            self._misses = 0
        else:
            self._misses += 1
            if self._misses >= _MISSES:
                self._misses = 0
                self._on_suspicion("two canaries did not arrive")

    async def _beat(self) -> None:
        keys = self._link.keys.worker(self._epoch)
        if self._seq % self._enlist_every == 0:
            self._link.post(enlist(self._link.keys.workers, epoch=self._epoch, ttl_ms=self._ttl_ms))
        self._seq += 1
        epoch, message = self._epoch, b"%b%d" % (_PREFIX, self._seq)
        subscribed = self._is_subscribed()
        self._awaited = message if subscribed else None
        self._listener.ping()
        command = beat(keys.lease, seq=self._seq, ttl_ms=self._ttl_ms, channel=keys.control)
        receivers = await self._link.call(command)
        if receivers is None and self._awaited == message:
            self._awaited = None  # it may not have been published; the pong decides
        self._on_link(receivers is not None)
        same_connection = (
            self._generation == self._listener.generation
            and self._listener.listening
            and epoch == self._epoch
        )
        if receivers == 0 and subscribed and same_connection:
            self._on_suspicion("the canary had no receiver")

    def _is_subscribed(self) -> bool:
        return self._listener.is_confirmed(self._link.keys.worker(self._epoch).control)
