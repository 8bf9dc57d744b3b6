"""LISTEN and NOTIFY over one connection of their own, which is replaced whenever it is lost.

What is sent is a hint: it may be lost or repeated. It is sent outside any transaction: a NOTIFY
within one would make its commit wait for every other one that has a NOTIFY, including the sync of the disk.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import asyncpg

from stores.postgres.address import Address
from stores.postgres.connections import connect_arguments
from stores.postgres.driver import Connection, Pooled
from stores.postgres.faults import fault_of
from stores.postgres.hosts import Hosts
from stores.postgres.options import Options
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

MAX_PAYLOAD = 7999
"""Bytes; the server's limit."""
APPLICATION = "run-coordinator hints"
ANSWER_WITHIN = 1.0  # s; a connection that is silent for longer is given up
_CONNECT_WITHIN = 2.0  # s, for each server that was named
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # s, between two attempts to connect
_AT_ONCE = 500
_PROOF = "proof:"
_NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) m (channel, payload)"

Message = tuple[str, str]
"""Channel and payload."""


class Audience(Protocol):
    """The sender and receiver of messages. Called on the event loop; none of these may block or raise."""

    def outgoing(self) -> Sequence[Message]:
        """The messages to be sent, each once. Called whenever the connection is idle."""
        ...

    def on_message(self, channel: str, payload: str) -> None:
        """A message of another process: own messages are not delivered."""
        ...

    def on_listening(self) -> None:
        """From now on messages on the channels arrive, for as long as this connection stands."""
        ...

    def on_deaf(self) -> None:
        """A connection that listened was lost. Another one is being made."""
        ...

    def on_away(self) -> None:
        """No server can be connected to, or the connection carries no messages: called once, and until
        `on_listening` further failures are not reported."""
        ...


class DeafConnection(Exception):
    """LISTEN was accepted, and a message on the channel did not arrive."""


class FullQueue(Exception):
    """The server's queue of notifications is full."""


class Channels:
    """Connects when there is something to listen to or to send. `ping` (s): how often a silent connection
    is probed; one without an answer is given up. Raises ValueError for an unusable URL."""

    def __init__(self, url: str, audience: Audience, options: Options, *, ping: float) -> None:
        self._hosts, self._audience, self._options = Hosts(Address(url)), audience, options
        self._ping = ping
        self._wanted: frozenset[str] = frozenset()
        self._unsent: Sequence[Message] = ()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._proof, self._proven = "", asyncio.Event()
        self._idle = asyncio.Event()
        self._listening = self._away = self._closed = False

    @property
    def listening(self) -> bool:
        return self._listening

    def listen(self, channels: frozenset[str]) -> None:
        """Replaces the set of channels that are listened to."""
        if not self._closed and channels != self._wanted:
            self._wanted, self._listening = channels, False
            self.wake()

    def wake(self) -> None:
        """Call when there are messages to be sent, or the channels have changed."""
        if self._closed:
            return
        self._idle.clear()
        self._wake.set()
        if self._task is None:
            self._task = begin_soon(self._run(), name="hints by NOTIFY")

    async def aclose(self) -> None:
        """Sends the outgoing messages, for a bounded time. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is None:
            return
        self._unsent = [*self._unsent, *self._audience.outgoing()]
        if self._unsent and not self._away:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_WITHIN):
                    await self._idle.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    # -- how

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._connection() as cx:
                    pause = _FIRST_PAUSE
                    await self._serve(cx)
            except Exception as error:  # noqa: BLE001 - hints are retried after any error
                self._lost(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _lost(self, error: Exception) -> None:
        """Logs as a warning what keeps it from listening, once."""
        (stood, self._listening), away = (self._listening, False), self._away
        level = logging.INFO if stood else logging.DEBUG if away else logging.WARNING
        self._away = not stood
        if stood:
            self._audience.on_deaf()
        elif not away:
            self._audience.on_away()
        reason = f"{error}" if isinstance(error, DeafConnection | FullQueue) else fault_of(error).what
        logger.log(level, "Hints by NOTIFY: %s", reason or repr(error))

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        arguments = connect_arguments(self._options, longest=ANSWER_WITHIN)
        arguments |= {"timeout": _CONNECT_WITHIN}
        arguments["server_settings"] |= {"application_name": APPLICATION}
        cx = await self._hosts.connect(**arguments)
        cx.add_termination_listener(self._on_end)
        try:
            yield cx
        finally:
            cx.terminate()

    def _on_end(self, _: object) -> None:
        self._wake.set()

    async def _serve(self, cx: Connection) -> None:
        """Returns when the connection is lost; raises what went wrong."""
        listening_to = frozenset[str]()
        while not cx.is_closed():
            self._wake.clear()
            if listening_to != (wanted := self._wanted):
                await self._subscribe(cx, listening_to, wanted)
                listening_to = wanted
            elif batch := self._next_batch():
                await self._send(cx, batch)
            else:
                self._idle.set()
                await self._rest(cx)
        raise ConnectionResetError("the connection was lost")

    async def _subscribe(self, cx: Connection, listening_to: frozenset[str], wanted: frozenset[str]) -> None:
        for channel in listening_to - wanted:
            await cx.remove_listener(channel, self._on_message)
        for channel in sorted(wanted - listening_to):
            await cx.add_listener(channel, self._on_message)
        if wanted:
            await self._prove(cx, min(wanted))
        if wanted == self._wanted:
            self._listening, self._away = bool(wanted), False
            self._audience.on_listening()

    async def _prove(self, cx: Connection, channel: str) -> None:
        """Raises unless notifications arrive: a pooler in transaction mode accepts LISTEN, for a session that
        serves another client afterwards."""
        self._proof = f"{_PROOF}{secrets.token_hex(8)}"
        self._proven.clear()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await _notify(cx, [channel], [self._proof])
                await self._proven.wait()
        except TimeoutError:
            raise DeafConnection(
                "what is sent does not arrive: for LISTEN, name an address without a pooler in"
                " transaction mode (postgres_notify_url)"
            ) from None

    def _next_batch(self) -> Sequence[Message]:
        if not self._unsent:
            self._unsent = self._audience.outgoing()
        return self._unsent[:_AT_ONCE]

    async def _send(self, cx: Connection, batch: Sequence[Message]) -> None:
        """Messages that were lost with their connection are sent again: a hint may be repeated."""
        channels, payloads = zip(*batch, strict=True)
        try:
            await _notify(cx, list(channels), list(payloads))
        except asyncpg.DataError as error:
            logger.warning("%d hints could not be sent: %s", len(batch), error)
        self._unsent = self._unsent[len(batch) :]

    async def _rest(self, cx: Connection) -> None:
        try:
            async with asyncio.timeout(self._ping):
                await self._wake.wait()
        except TimeoutError:
            await cx.execute("SELECT", timeout=ANSWER_WITHIN)

    def _on_message(self, cx: Pooled, pid: int, channel: str, payload: object) -> None:
        if pid == cx.get_server_pid():
            if payload == self._proof:
                self._proven.set()
        elif isinstance(payload, str) and channel in self._wanted and not payload.startswith(_PROOF):
            self._audience.on_message(channel, payload)


async def _notify(cx: Connection, channels: list[str], payloads: list[str]) -> None:
    """Raises FullQueue. Querying the queue's usage also moves its tail past notifications that every listener
    has read; while all senders are refused, nothing else does that."""
    try:
        await cx.execute(_NOTIFY, channels, payloads, timeout=ANSWER_WITHIN)
    except asyncpg.ProgramLimitExceededError:
        usage: float = await cx.fetchval("SELECT pg_notification_queue_usage()", timeout=ANSWER_WITHIN)
        raise FullQueue(
            f"the server's queue of notifications was full, and is {usage:.0%} full: a session that listens"
            " keeps a transaction open (see pg_stat_activity)"
        ) from None
