"""The notifier on PostgreSQL's LISTEN and NOTIFY, for workers that share a database and no Redis.

Four channels: the worker's abort channel, one to all workers, one on which threads are named that were
freed, and one on which logs are that have grown; many in one message. Whoever watches a thread or follows a
run needs no subscription of its own for that.
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
from coordinator.notifiers.bell import Bell, Bells
from coordinator.notifiers.callbacks import Callbacks
from coordinator.signals import SignalReader, encode
from stores.postgres.channels import MAX_PAYLOAD, Channels, Message
from stores.postgres.options import Options

_log = logging.getLogger(__name__)

_WATCH_LIMIT = 0.25  # s
_KEPT = 1000
"""So many signals wait for a connection, the newest ones. The tick finds what the others would have said."""
_TAG = 12  # characters
_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_GROWN = 2 * (_TAG + 1) + 19 + 1 + 19  # characters, at most


class PostgresNotifier:
    """`url`: a direct connection, of no pooler in transaction mode. `namespace` keeps deployments apart that
    share a database and a schema name. `ping` (s): how often a silent connection is asked for a sign of life.

    What is meant for this process takes no way round. No task or connection exists before `start`, the first
    `watch` or the first signal for others. Raises ValueError for a URL that is of no use.
    """

    def __init__(self, url: str, options: Options, *, namespace: str = "rc", ping: float = 0.5) -> None:
        self._channels = Channels(url, self, options, ping=ping)
        self._prefix = f"rc:{_hashed(f'{namespace} {options.schema}')}"
        self._broadcast, self._threads = f"{self._prefix}:all", f"{self._prefix}:threads"
        self._logs = f"{self._prefix}:logs"
        self._reader = SignalReader()
        self._callbacks = Callbacks()
        self._epoch: int | None = None
        self._watched: dict[str, Bells] = {}
        self._decided = asyncio.Event()
        self._signals: deque[Message] = deque(maxlen=_KEPT)
        self._freed: dict[str, None] = {}
        self._grown: dict[str, tuple[int, int]] = {}
        self._connectivity = Connectivity.connecting
        self._closed = False

    @property
    def connectivity(self) -> Connectivity:
        return self._connectivity

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
        self._epoch = epoch
        self._listen()

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        if epoch == self._epoch:
            asyncio.get_running_loop().call_soon(self._hear_signal, epoch, signal)
        else:
            self._signals.append((self._abort_channel(epoch), encode(signal).decode()))
            self._channels.wake()

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        tag = _hashed(thread_id)
        self._ring(tag)
        self._freed[tag] = None
        self._channels.wake()

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        if self._watched and (bells := self._watched.get(_hashed(thread_id))) is not None:
            bells.hint(_hashed(run_id), event_id)

    @property
    def announces(self) -> bool:
        return self._connectivity is Connectivity.connected

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        self._grown[f"{_hashed(thread_id)}/{_hashed(run_id)}"] = event_id
        while len(self._grown) > _KEPT:
            del self._grown[next(iter(self._grown))]
        self._channels.wake()

    @asynccontextmanager
    async def watch(self, thread_id: str, log: str | None = None) -> AsyncGenerator[Wakeup]:
        tag, bell = _hashed(thread_id), Bell()
        bells = self._watched.setdefault(tag, Bells())
        bells.add(bell, None if log is None else _hashed(log))
        try:
            await self._until_decided()
            bell.hush()  # the caller has read nothing yet: nothing is lost
            yield bell
        finally:
            bells.discard(bell)
            if not bells and self._watched.get(tag) is bells:
                del self._watched[tag]

    async def aclose(self) -> None:
        self._closed = True
        self._callbacks = Callbacks()
        self._epoch = None
        await self._channels.aclose()
        self._connectivity = Connectivity.down
        self._decided.set()

    async def _until_decided(self) -> None:
        """The channel of threads stands, or there is nothing to wait for."""
        self._listen()
        if not self._decided.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_LIMIT):
                    await self._decided.wait()

    def _listen(self) -> None:
        own = () if self._epoch is None else (self._abort_channel(self._epoch), self._broadcast)
        self._channels.listen(frozenset({self._threads, self._logs, *own}))

    def _abort_channel(self, epoch: int) -> str:
        return f"{self._prefix}:w:{epoch}"

    def _hear_signal(self, epoch: int, signal: Signal) -> None:
        if epoch == self._epoch:
            self._callbacks.signal(signal)

    def _ring(self, tag: str) -> None:
        if (bells := self._watched.get(tag)) is not None:
            bells.ring()

    def _hint(self, grown: str) -> None:
        """Whatever it is: it came from the server, where others may send as well."""
        thread, _, rest = grown.partition("/")
        run, _, event_id = rest.partition("/")
        if (bells := self._watched.get(thread)) is not None and (
            found := _ID.fullmatch(event_id)
        ) is not None:
            bells.hint(run, (int(found[1]), int(found[2])))

    # ---- what the connection asks and tells (see `channels.Audience`) ----------------------------------

    def outgoing(self) -> Sequence[Message]:
        messages = list(self._signals)
        self._signals.clear()
        freed, self._freed = list(self._freed), {}
        messages += _together(self._threads, freed, _TAG)
        grown, self._grown = [f"{log}/{fence}-{number}" for log, (fence, number) in self._grown.items()], {}
        messages += _together(self._logs, grown, _GROWN)
        return messages

    def on_message(self, channel: str, payload: str) -> None:
        if channel == self._threads:
            for tag in payload.split(" "):
                self._ring(tag)
        elif channel == self._logs:
            for grown in payload.split(" "):
                self._hint(grown)
        elif (signal := self._reader.read(payload.encode())) is not None:
            self._callbacks.signal(signal)

    def on_listening(self) -> None:
        if not self._channels.listening:
            return
        self._decided.set()
        for bells in self._watched.values():
            bells.ring()
        self._report(Connectivity.connected)
        if self._epoch is not None:
            self._callbacks.resync()

    def on_deaf(self) -> None:
        self._decided.clear()
        self._report(Connectivity.connecting)

    def on_away(self) -> None:
        self._decided.set()
        self._report(Connectivity.down)

    def _report(self, connectivity: Connectivity) -> None:
        if connectivity is not self._connectivity and not self._closed:
            self._connectivity = connectivity
            _log.debug("connectivity: %s", connectivity)
            self._callbacks.connectivity(connectivity)


def _together(channel: str, words: list[str], length: int) -> list[Message]:
    at_once = MAX_PAYLOAD // (length + 1)
    parts = (words[start : start + at_once] for start in range(0, len(words), at_once))
    return [(channel, " ".join(part)) for part in parts]


def _hashed(text: str) -> str:
    """Two threads in 2^72 share a tag: whoever watches the other one looks once too often."""
    return urlsafe_b64encode(sha256(text.encode("utf-8", "surrogatepass")).digest()[:9]).decode()
