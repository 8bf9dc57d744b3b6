"""The notifier on PostgreSQL's LISTEN and NOTIFY, for workers that share a database and no Redis.

It uses four channels: the worker's abort channel, a broadcast to all workers, one for freed threads, and one
for logs that have grown. A message of the last two names many threads or logs, so watching a thread or
following a run needs no subscription of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

from coordinator.notifier import Connectivity, Signal, Wakeup
from coordinator.notifiers.callbacks import Callbacks
from coordinator.notifiers.wakeups import ThreadWatchers, WakeupEvent
from coordinator.signals import SignalReader, encode
from stores.postgres.channels import MAX_PAYLOAD, Channels, Message
from stores.postgres.options import Options

_log = logging.getLogger(__name__)

_WATCH_LIMIT = 0.25  # s
_MAX_PENDING = 1000
"""Signals that wait for a connection. The oldest are dropped; ticks detect what they were about."""
_TAG = 12  # characters
_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_GROWN = 2 * (_TAG + 1) + 19 + 1 + 19  # characters, at most


class PostgresNotifier:
    """`url` must not lead to a pooler in transaction mode. `namespace` separates deployments that share a
    database and a schema name. `ping`: interval (s) of probes of a silent connection.

    Signals to this process are delivered without the database. No task or connection exists before `start`,
    the first `watch` or the first signal to another process. Raises ValueError for an unusable URL.
    """

    def __init__(self, url: str, options: Options, *, namespace: str = "rc", ping: float = 0.5) -> None:
        self._channels = Channels(url, self, options, ping=ping)
        self._prefix = f"rc:{_hashed(f'{namespace} {options.schema}')}"
        self._broadcast, self._threads = f"{self._prefix}:all", f"{self._prefix}:threads"
        self._logs = f"{self._prefix}:logs"
        self._reader = SignalReader()
        self._callbacks = Callbacks()
        self._epoch: int | None = None
        self._watched: dict[str, ThreadWatchers] = {}
        self._subscription_settled = asyncio.Event()
        self._signals: deque[Message] = deque(maxlen=_MAX_PENDING)
        self._freed: dict[str, None] = {}
        self._grown: dict[str, tuple[int, int]] = {}
        self._connectivity = Connectivity.connecting
        self._closed = False

    @property
    def connectivity(self) -> Connectivity:
        return self._connectivity

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
        self._epoch = epoch
        self._listen()

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        if epoch == self._epoch:
            asyncio.get_running_loop().call_soon(self._deliver, epoch, signal)
        else:
            self._signals.append((self._abort_channel(epoch), encode(signal).decode()))
            self._channels.wake()

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        tag = _hashed(thread_id)
        self._wake(tag)
        self._freed[tag] = None
        self._channels.wake()

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if self._watched and (watchers := self._watched.get(_hashed(thread_id))) is not None:
            watchers.hint(_hashed(run_id), event_id)

    @property
    def announces(self) -> bool:
        return self._connectivity is Connectivity.connected

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        self._grown[f"{_hashed(thread_id)}/{_hashed(run_id)}"] = event_id
        while len(self._grown) > _MAX_PENDING:
            del self._grown[next(iter(self._grown))]
        self._channels.wake()

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        tag, wakeup = _hashed(thread_id), WakeupEvent()
        watchers = self._watched.setdefault(tag, ThreadWatchers())
        watchers.add(wakeup, None if log is None else _hashed(log))
        try:
            await self._subscribed()
            wakeup.clear()  # loses no hint, because the caller reads the store only after this
            yield wakeup
        finally:
            watchers.discard(wakeup)
            wakeup.close()
            if not watchers and self._watched.get(tag) is watchers:
                del self._watched[tag]

    async def aclose(self) -> None:
        self._closed = True
        self._callbacks = Callbacks()
        self._epoch = None
        await self._channels.aclose()
        self._connectivity = Connectivity.down
        self._subscription_settled.set()

    async def _subscribed(self) -> None:
        """Waits until the channels are subscribed or the server is away, for at most `_WATCH_LIMIT`."""
        self._listen()
        if not self._subscription_settled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_LIMIT):
                    await self._subscription_settled.wait()

    def _listen(self) -> None:
        own = () if self._epoch is None else (self._abort_channel(self._epoch), self._broadcast)
        self._channels.listen(frozenset({self._threads, self._logs, *own}))

    def _abort_channel(self, epoch: int) -> str:
        return f"{self._prefix}:w:{epoch}"

    def _deliver(self, epoch: int, signal: Signal) -> None:
        if epoch == self._epoch:
            self._callbacks.signal(signal)

    def _wake(self, tag: str) -> None:
        if (watchers := self._watched.get(tag)) is not None:
            watchers.wake_all()

    def _hint(self, grown: str) -> None:
        """Handles the name of a log that has grown. Ignores malformed ones: other programs may notify."""
        thread, _, rest = grown.partition("/")
        run, _, event_id = rest.partition("/")
        if (watchers := self._watched.get(thread)) is not None and (
            match := _ID.fullmatch(event_id)
        ) is not None:
            watchers.hint(run, (int(match[1]), int(match[2])))

    # ---- callbacks of the connection (see `channels.Audience`) -----------------------------------------

    def outgoing(self) -> Sequence[Message]:
        messages = list(self._signals)
        self._signals.clear()
        freed, self._freed = list(self._freed), {}
        messages += _batches(self._threads, freed, _TAG)
        grown, self._grown = [f"{log}/{fence}-{number}" for log, (fence, number) in self._grown.items()], {}
        messages += _batches(self._logs, grown, _GROWN)
        return messages

    def on_message(self, channel: str, payload: str) -> None:
        if channel == self._threads:
            for tag in payload.split(" "):
                self._wake(tag)
        elif channel == self._logs:
            for grown in payload.split(" "):
                self._hint(grown)
        elif (signal := self._reader.read(payload.encode())) is not None:
            self._callbacks.signal(signal)

    def on_listening(self) -> None:
        if not self._channels.listening:
            return
        self._subscription_settled.set()
        for watchers in self._watched.values():
            watchers.wake_all()
        self._report(Connectivity.connected)
        if self._epoch is not None:
            self._callbacks.resync()

    def on_deaf(self) -> None:
        self._subscription_settled.clear()
        self._report(Connectivity.connecting)

    def on_away(self) -> None:
        self._subscription_settled.set()
        self._report(Connectivity.down)

    def _report(self, connectivity: Connectivity) -> None:
        if connectivity is not self._connectivity and not self._closed:
            self._connectivity = connectivity
            _log.debug("connectivity: %s", connectivity)
            self._callbacks.connectivity(connectivity)


def _batches(channel: str, names: list[str], length: int) -> list[Message]:
    """Returns messages of as many names as fit. `length`: characters of a name, at most."""
    batch_size = MAX_PAYLOAD // (length + 1)
    batches = (names[start : start + batch_size] for start in range(0, len(names), batch_size))
    return [(channel, " ".join(batch)) for batch in batches]


def _hashed(text: str) -> str:
    """Returns a tag of 72 bits. If two threads share one, their watchers are woken without need."""
    return urlsafe_b64encode(sha256(text.encode("utf-8", "surrogatepass")).digest()[:9]).decode()
