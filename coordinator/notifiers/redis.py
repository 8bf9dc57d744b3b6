"""The notifier on Redis pub/sub. It publishes through the link and listens on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.bell import Bell, Bells
from coordinator.notifiers.callbacks import Callbacks
from coordinator.redis.canary import Canary
from coordinator.redis.link import RedisLink
from coordinator.redis.listener import Listener
from coordinator.redis.messages import encode_hint, read_hint
from coordinator.redis.resp import Reply
from coordinator.redis.scripts import publish
from coordinator.signals import SignalReader, encode

_log = logging.getLogger(__name__)

_WATCH_LIMIT = 0.25
_UNHEARD_FOR = 2.0
_UNHEARD_MAX = 1000
_EXAMINED_WITHIN = 2.0
_SCRATCH_THREAD = "probe"


class _Watched:
    """A thread's channel and those who watch it. `decided`: it stands, or there is nothing to wait for."""

    def __init__(self) -> None:
        self.bells = Bells()
        self.decided = asyncio.Event()


class RedisNotifier:
    """Shares `link` with the slot lock, and does not close it.

    Keeps the worker's presence in Redis too: its lease key and its place on the list of workers, both with
    a TTL. No task or connection exists before `start` or the first `watch`. `canary` and `lease_ttl` are
    seconds.
    """

    def __init__(self, link: RedisLink, canary: float = 0.5, lease_ttl: float = 15.0) -> None:
        self._link = link
        self._listener = Listener(link.address, self)
        self._canary = Canary(
            link,
            self._listener,
            period=canary,
            lease_ttl=lease_ttl,
            on_suspicion=self._suspect,
            on_heard=self._on_heard,
            on_link=self._on_link,
        )
        self._reader = SignalReader()
        self._callbacks = Callbacks()
        self._control: frozenset[bytes] = frozenset()
        self._unconfirmed: set[bytes] = set()
        self._watched: dict[bytes, _Watched] = {}
        self._unheard: dict[int, float] = {}  # by epoch: since when hints have reached nobody
        self._connectivity = Connectivity.connecting
        self._suspected = False
        self._closed = False

    @property
    def connectivity(self) -> Connectivity:
        return self._connectivity

    @property
    def trouble(self) -> str | None:
        return self._link.trouble or self._listener.trouble

    @property
    def rejected(self) -> int:
        """Messages that were dropped because they were no signals."""
        return self._reader.rejected

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        if self._closed:
            return
        self._callbacks = Callbacks(on_signal, on_resync, on_connectivity)
        before = self._control
        self._control = frozenset({self._link.keys.worker(epoch).control, self._link.keys.broadcast})
        for channel in before - self._control:
            self._listener.remove(channel)
        self._unconfirmed = {channel for channel in self._control if not self._listener.is_confirmed(channel)}
        for channel in self._control:
            self._listener.add(channel, first=True)
        self._canary.follow(epoch)

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        answer = self._link.request(publish(self._link.keys.worker(epoch).control, encode(signal)))
        if answer is not None:
            answer.add_done_callback(lambda done: self._count_receivers(epoch, done))

    def _count_receivers(self, epoch: int, answer: asyncio.Future[Reply]) -> None:
        """A worker that reconnects misses hints for a second. One that stays away is told of, for it may
        well live: on another server, if the sentinels or the name of Redis disagree."""
        receivers = None if answer.cancelled() else answer.result()
        if not isinstance(receivers, int):
            return
        if receivers:
            self._unheard.pop(epoch, None)
            return
        now = asyncio.get_running_loop().time()
        since = self._unheard.setdefault(epoch, now)
        if now - since >= _UNHEARD_FOR:
            self._unheard[epoch] = math.inf  # once
            _log.warning(
                "worker epoch %d does not receive hints: twice nobody was subscribed to its abort channel."
                " It is dead, or connected to another Redis; its tick finds what was decided",
                epoch,
            )
        while len(self._unheard) > _UNHEARD_MAX:
            del self._unheard[next(iter(self._unheard))]

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        self._link.post(publish(self._link.keys.thread(thread_id).events, encode(signal)))

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if self._watched:
            watched = self._watched.get(self._link.keys.thread(thread_id).events)
            if watched is not None:
                watched.bells.hint(self._link.keys.run(run_id), event_id)

    @property
    def announces(self) -> bool:
        return self._connectivity is Connectivity.connected

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        keys = self._link.keys
        self._link.post(publish(keys.thread(thread_id).events, encode_hint(keys.run(run_id), event_id)))

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        channel = self._link.keys.thread(thread_id).events
        bell = Bell()
        watched = self._watched.get(channel)
        if watched is None:
            watched = self._watched[channel] = _Watched()
            self._listener.add(channel)
        watched.bells.add(bell, None if log is None else self._link.keys.run(log))
        try:
            await self._until_decided(watched)
            bell.hush()  # the caller has read nothing yet: nothing is lost
            yield bell
        finally:
            watched.bells.discard(bell)
            if not watched.bells:
                del self._watched[channel]
                self._listener.remove(channel)

    async def examine(self) -> str | None:
        """Publish on a channel that is subscribed to. Returns why nothing arrives, for people; None = it
        does."""
        async with self.watch(_SCRATCH_THREAD) as wakeup:
            self.notify_thread(_SCRATCH_THREAD, Signal(kind="settled"))
            # A subscription that is confirmed only now wakes this as well.
            if self.trouble is None and await wakeup.wait(_EXAMINED_WITHIN):
                return None
        return self.trouble or "what is published does not arrive"

    async def aclose(self) -> None:
        self._closed = True
        self._callbacks = Callbacks()
        await self._canary.aclose()
        await self._listener.aclose()
        self._connectivity = Connectivity.down
        self._decide_all()

    async def _until_decided(self, watched: _Watched) -> None:
        if not watched.decided.is_set() and not self._listener.away:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_LIMIT):
                    await watched.decided.wait()

    # ---- what the listener hears (see `listener.Audience`) ---------------------------------------------

    def on_message(self, channel: bytes, payload: bytes) -> None:
        watched = self._watched.get(channel)
        if watched is not None:
            if (hint := read_hint(payload)) is None:
                watched.bells.ring()
            else:
                watched.bells.hint(*hint)
        elif channel in self._control and not self._canary.hear(payload):
            signal = self._reader.read(payload)
            if signal is not None:
                self._callbacks.signal(signal)

    def on_subscribed(self, channel: bytes) -> None:
        watched = self._watched.get(channel)
        if watched is not None:
            watched.decided.set()
            watched.bells.ring()
        elif channel in self._unconfirmed:
            self._unconfirmed.discard(channel)
            if not self._unconfirmed:
                self._callbacks.resync()

    def on_listening(self) -> None:
        healthy = not self._suspected and not self._link.away
        self._report(Connectivity.connected if healthy else Connectivity.suspected)

    def on_deaf(self) -> None:
        self._unconfirmed = set(self._control)
        for watched in self._watched.values():
            watched.decided.clear()
        if self._connectivity is not Connectivity.down:  # else it was an attempt, and none has listened since
            self._report(Connectivity.suspected if self._suspected else Connectivity.connecting)

    def on_away(self) -> None:
        self._decide_all()
        self._report(Connectivity.down)

    def _decide_all(self) -> None:
        for watched in self._watched.values():
            watched.decided.set()

    # ---- what the canary finds -------------------------------------------------------------------------

    def _suspect(self, why: str) -> None:
        self._suspected = True
        _log.info("the abort channel is suspected to be dead: %s", why)
        self._report(Connectivity.suspected)
        self._listener.drop(why)

    def _on_heard(self) -> None:
        """Only this proves that the connection which replaced a suspected one carries messages."""
        if self._suspected:
            self._suspected = False
            self._on_link(not self._link.away)

    def _on_link(self, answered: bool) -> None:
        if self._listener.listening and not self._suspected:
            self._report(Connectivity.connected if answered else Connectivity.suspected)

    def _report(self, connectivity: Connectivity) -> None:
        if connectivity is not self._connectivity and not self._closed:
            self._connectivity = connectivity
            _log.debug("connectivity: %s", connectivity)
            self._callbacks.connectivity(connectivity)
