"""The canary: is my abort channel alive? A black-holed connection looks like a quiet one, so it is asked.

Each period the worker renews its presence and publishes `hb:<n>` to itself (script `beat`), and pings the
pub/sub connection. That is suspected when nobody received the beat, or when twice the beat or the pong
did not come. While the link is away no beat goes out, and the pong alone decides.
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
    """Finds a dead connection within three periods. In each, `on_link` is called with whether the link
    answered, and `on_heard` when the worker's own message arrived."""

    def __init__(
        self,
        link: RedisLink,
        listener: Listener,
        *,
        period: float,
        lease_ttl: float,
        on_suspicion: Callable[[str], None],
        on_heard: Callable[[], None],
        on_link: Callable[[bool], None],
    ) -> None:
        self._link = link
        self._listener = listener
        self._period = period
        self._ttl_ms = int(lease_ttl * 1000)
        self._enlist_every = max(1, int(lease_ttl / 3 / period))
        self._on_suspicion = on_suspicion
        self._on_heard = on_heard
        self._on_link = on_link
        self._task: asyncio.Task[None] | None = None
        self._epoch = 0
        self._seq = 0
        self._awaited: bytes | None = None
        self._generation = 0
        self._misses = 0

    def follow(self, epoch: int) -> None:
        """Sing for this worker from now on. Needs a running loop."""
        self._epoch = epoch
        self._seq = 0
        self._awaited = None
        if self._task is None:
            self._task = begin_soon(self._sing(), name="redis canary", context=Context())

    def hear(self, payload: bytes) -> bool:
        """Whether this message of the abort channel was a beat: mine, late or forged."""
        if not payload.startswith(_PREFIX):
            return False
        if payload == self._awaited:
            self._awaited = None
            self._on_heard()
        return True

    async def aclose(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _sing(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._judge()
            await self._beat()
            pause = self._period * random.uniform(0.9, 1.0)
            await asyncio.sleep(max(0.0, began + pause - loop.time()))

    def _judge(self) -> None:
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
                self._on_suspicion("two canaries were not heard")

    async def _beat(self) -> None:
        keys = self._link.keys.worker(self._epoch)
        if self._seq % self._enlist_every == 0:
            self._link.post(enlist(self._link.keys.workers, epoch=self._epoch, ttl_ms=self._ttl_ms))
        self._seq += 1
        epoch, song = self._epoch, b"%b%d" % (_PREFIX, self._seq)
        subscribed = self._is_subscribed()
        self._awaited = song if subscribed else None
        self._listener.ping()
        command = beat(keys.lease, seq=self._seq, ttl_ms=self._ttl_ms, channel=keys.control)
        receivers = await self._link.call(command)
        if receivers is None and self._awaited == song:
            self._awaited = None  # perhaps never published; the pong will tell
        self._on_link(receivers is not None)
        same = (
            self._generation == self._listener.generation
            and self._listener.listening
            and epoch == self._epoch
        )
        if receivers == 0 and subscribed and same:
            self._on_suspicion("nobody received the canary")

    def _is_subscribed(self) -> bool:
        return self._listener.is_confirmed(self._link.keys.worker(self._epoch).control)
