"""The notifier on Redis pub/sub. It publishes through the link, and subscribes on a separate connection."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress

from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.callbacks import Callbacks
from coordinator.notifiers.wakeups import ThreadWatchers, WakeupEvent
from coordinator.redis.canary import Canary
from coordinator.redis.link import RedisLink
from coordinator.redis.listener import Listener
from coordinator.redis.messages import encode_hint, read_event, read_hint
from coordinator.redis.published import PublishedEvents
from coordinator.redis.resp import Reply
from coordinator.redis.scripts import publish
from coordinator.signals import SignalReader, encode

_log = logging.getLogger(__name__)

_WATCH_LIMIT = 0.25  # s; for the confirmation of a subscription
_UNRECEIVED_FOR = 2.0  # s without a receiver, after which a worker is logged
_MAX_UNRECEIVED = 1000
_EXAMINE_LIMIT = 2.0  # s
_SCRATCH_THREAD = "probe"


class _ThreadChannel:
    """A thread's channel and its watchers. `settled` is set when it is subscribed or Redis is away."""

    def __init__(self) -> None:
        self.watchers = ThreadWatchers()
        self.settled = asyncio.Event()


class RedisNotifier:
    """Shares `link` with the slot lock, and does not close it.

    Also renews the worker's presence in Redis: its lease key and its entry in the set of workers, both with a
    TTL. No task or connection exists before `start` or the first `watch`. `canary` (the interval) and
    `lease_ttl` are in seconds. `published` gets the events of runs whose log is watched.
    """

    def __init__(
        self,
        link: RedisLink,
        canary: float = 0.5,
        lease_ttl: float = 15.0,
        published: PublishedEvents | None = None,
    ) -> None:
        self._link = link
        self._published = PublishedEvents() if published is None else published
        self._listener = Listener(link.address, self)
        self._canary = Canary(
            link,
            self._listener,
            period=canary,
            lease_ttl=lease_ttl,
            on_suspicion=self._suspect,
            on_received=self._on_canary_received,
            on_link=self._on_link,
        )
        self._reader = SignalReader()
        self._callbacks = Callbacks()
        self._control: frozenset[bytes] = frozenset()
        self._unconfirmed: set[bytes] = set()
        self._watched: dict[bytes, _ThreadChannel] = {}
        self._unreceived: dict[int, float] = {}  # by epoch: since when hints have had no receiver
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
        """Number of messages that were dropped because they are not valid signals."""
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
        reply = self._link.request(publish(self._link.keys.worker(epoch).control, encode(signal)))
        if reply is not None:
            reply.add_done_callback(lambda done: self._count_receivers(epoch, done))

    def _count_receivers(self, epoch: int, reply: asyncio.Future[Reply]) -> None:
        """Logs a worker that receives no hints for longer than a reconnect takes. It may be alive and
        connected to another server, if the sentinels or the name of Redis disagree."""
        receivers = None if reply.cancelled() else reply.result()
        if not isinstance(receivers, int):
            return
        if receivers:
            self._unreceived.pop(epoch, None)
            return
        now = asyncio.get_running_loop().time()
        since = self._unreceived.setdefault(epoch, now)
        if now - since >= _UNRECEIVED_FOR:
            self._unreceived[epoch] = math.inf  # logged once
            _log.warning(
                "Worker epoch %d does not receive hints, because it is not subscribed to its abort channel:"
                " it is dead, or connected to another Redis server. If it is alive, its ticks deliver"
                " cancels",
                epoch,
            )
        while len(self._unreceived) > _MAX_UNRECEIVED:
            del self._unreceived[next(iter(self._unreceived))]

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        self._link.post(publish(self._link.keys.thread(thread_id).events, encode(signal)))

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if self._watched:
            watched = self._watched.get(self._link.keys.thread(thread_id).events)
            if watched is not None:
                watched.watchers.hint(self._link.keys.run(run_id), event_id)

    @property
    def announces(self) -> bool:
        return self._connectivity is Connectivity.connected

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        keys = self._link.keys
        self._link.post(publish(keys.thread(thread_id).events, encode_hint(keys.run(run_id), event_id)))

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        channel = self._link.keys.thread(thread_id).events
        wakeup = WakeupEvent()
        watched = self._watched.get(channel)
        if watched is None:
            watched = self._watched[channel] = _ThreadChannel()
            self._listener.add(channel)
        run = None if log is None else self._link.keys.run(log)
        watched.watchers.add(wakeup, run)
        try:
            with nullcontext() if run is None else self._published.followed(run):
                await self._subscribed(watched)
                wakeup.clear()  # loses no hint, because the caller reads the store only after this
                yield wakeup
        finally:
            watched.watchers.discard(wakeup)
            wakeup.close()
            if not watched.watchers:
                del self._watched[channel]
                self._listener.remove(channel)

    async def examine(self) -> str | None:
        """Publishes a message to this process. Returns None if it arrives, else the reason, for people."""
        async with self.watch(_SCRATCH_THREAD) as wakeup:
            self.notify_thread(_SCRATCH_THREAD, Signal(kind="settled"))
            # A late confirmation of the subscription sets the wake-up as well.
            if self.trouble is None and await wakeup.wait(_EXAMINE_LIMIT):
                return None
        return self.trouble or "published messages do not arrive"

    async def aclose(self) -> None:
        self._closed = True
        self._callbacks = Callbacks()
        await self._canary.aclose()
        await self._listener.aclose()
        self._connectivity = Connectivity.down
        self._settle_all()

    async def _subscribed(self, watched: _ThreadChannel) -> None:
        """Waits until the channel is subscribed or Redis is away, for at most `_WATCH_LIMIT`."""
        if not watched.settled.is_set() and not self._listener.away:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_LIMIT):
                    await watched.settled.wait()

    # ---- callbacks of the listener (see `listener.ListenerCallbacks`) ----------------------------------

    def on_message(self, channel: bytes, payload: bytes) -> None:
        watched = self._watched.get(channel)
        if watched is not None:
            if (event := read_event(payload)) is not None:
                self._published.receive(*event)
                watched.watchers.hint(event.run, event.id)
            elif (hint := read_hint(payload)) is not None:
                watched.watchers.hint(*hint)
            else:
                watched.watchers.wake_all()
        elif channel in self._control and not self._canary.receive(payload):
            signal = self._reader.read(payload)
            if signal is not None:
                self._callbacks.signal(signal)

    def on_subscribed(self, channel: bytes) -> None:
        watched = self._watched.get(channel)
        if watched is not None:
            watched.settled.set()
            watched.watchers.wake_all()
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
            watched.settled.clear()
        if self._connectivity is not Connectivity.down:  # while down, a failed attempt changes nothing
            self._report(Connectivity.suspected if self._suspected else Connectivity.connecting)

    def on_away(self) -> None:
        self._settle_all()
        self._report(Connectivity.down)

    def _settle_all(self) -> None:
        for watched in self._watched.values():
            watched.settled.set()

    # ---- callbacks of the canary -----------------------------------------------------------------------

    def _suspect(self, why: str) -> None:
        self._suspected = True
        _log.info(
            "The abort channel's connection may be dead and is replaced; hints may be late: %s",
            why,
        )
        self._report(Connectivity.suspected)
        self._listener.drop(why)

    def _on_canary_received(self) -> None:
        """Ends a suspicion: only a received canary proves that the replaced connection delivers messages."""
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
