"""The link: one client connection for all commands of a process.

Calls made in one turn of the event loop are sent as one pipeline and are answered together. Only a script
whose hash the server does not know is sent again. Every call is resolved within the budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum

from coordinator.redis.address import Address
from coordinator.redis.calls import Call, CallQueue, LinkCounters
from coordinator.redis.keeper import Keeper
from coordinator.redis.keys import Keys
from coordinator.redis.refusals import SUSPECT, UNFIT, RefusedError, code_of, explain
from coordinator.redis.resp import Reply, ReplyError
from coordinator.redis.scripts import (
    EVENTS,
    HINTS,
    Command,
    ping,
    probe,
    probe_events,
    probe_hints,
    publish,
)
from coordinator.redis.wire import Wire

_log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
"""Maximum number of calls that are unsent or in flight: a third of a second at 10,000 runs/s."""

_STALL = 0.05
"""Seconds by which a timer may be late. A later one shows that this process stalled, not Redis."""


class Use(Enum):
    """The purpose of a link, which determines the scripts and permissions that it needs."""

    hints = "link"
    events = "event link"


class RedisLink:
    """A link connects at its first call and belongs to one event loop. `budget`: timeout of a call (s).

    `call` and `post` do not raise if Redis is away, slow or full. While it is away, they do no I/O.
    """

    def __init__(
        self, url: str | Address, *, namespace: str = "rc", budget: float = 0.25, use: Use = Use.hints
    ) -> None:
        self.address = url if isinstance(url, Address) else Address(url)
        self.keys = Keys(namespace)
        self.budget = budget
        self._use = use
        self._keeper = Keeper(self.address, self, subject=use.value)
        self._calls = CallQueue()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_deferred = False
        self._greeting: Wire | None = None
        self._suspected: dict[tuple[str, str], str] = {}
        self._warned: set[tuple[str, str]] = set()
        self._circuit_closed = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"RedisLink({self.address.redacted}, namespace={self.keys.namespace!r})"

    @property
    def counters(self) -> LinkCounters:
        return self._calls.counters

    @property
    def away(self) -> bool:
        """The circuit is open (or the link closed): calls are answered at once, without I/O."""
        return self._keeper.away or self._closed

    @property
    def trouble(self) -> str | None:
        """Why the link is away, for people."""
        return self._keeper.trouble

    async def returned(self) -> None:
        """Returns when the circuit is closed, or `aclose` is called; at once if either is so already."""
        while self._keeper.away and not self._closed:
            self._circuit_closed.clear()
            await self._circuit_closed.wait()

    async def call(self, command: Command) -> Reply:
        """Sends a command, and returns its reply, or None if Redis is away, too slow, disconnected, or
        refused the command. A nil reply is returned as `b""`."""
        reply = await self.call_or_error(command)
        return None if isinstance(reply, ReplyError) else reply

    async def call_or_error(self, command: Command) -> Reply:
        """As `call`, but returns a refusal as a ReplyError."""
        future = self.request(command)
        return None if future is None else await future

    def request(self, command: Command) -> asyncio.Future[Reply] | None:
        """As `call_or_error`, but enqueues the command before it returns, in order with `post`. Returns None
        if the command is not sent."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        return future if self._enqueue(command, future) else None

    def post(self, command: Command) -> None:
        """Enqueues a command, and discards its reply. Lossy. Commands are executed in the order of the calls,
        except scripts that have to be sent again."""
        self._enqueue(command, None)

    async def ping(self) -> bool:
        """Returns whether Redis answers within the budget; False at once while it is away."""
        return await self.call(ping()) == b"PONG"

    async def aclose(self) -> None:
        """Waits for replies to pending calls, within the budget; then disconnects. Idempotent."""
        if not self.away and len(self._calls):
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._enqueue(ping(), future)
            self._closed = True
            await asyncio.wait([future], timeout=self.budget)
        self._closed = True
        self._circuit_closed.set()
        await self._keeper.aclose()
        self._calls.drop_unsent()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _enqueue(self, command: Command, future: asyncio.Future[Reply] | None) -> bool:
        calls = self._calls
        if self.away or len(calls) >= QUEUE_LIMIT:
            calls.counters.dropped += 1
            return False
        loop = asyncio.get_running_loop()
        calls.unsent.append(Call(command, future, loop.time() + self.budget))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return True

    def _flush(self) -> None:
        self._flushing = False
        if self._closed and not self._calls.unsent:
            return
        self._keeper.start()
        wire = self._keeper.wire
        if wire is not None and self._calls.unsent:
            wire.send(self._calls.take_unsent())
        self._arm()

    # ---- deadlines -------------------------------------------------------------------------------------

    def _arm(self) -> None:
        deadline = self._calls.next_deadline() if self._timer is None else None
        if deadline is not None:
            self._sweep_at(deadline)

    def _sweep_at(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due, self._sweep, due)

    def _sweep(self, due: float) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        if now - due > _STALL and not self._sweep_deferred:
            # The event loop was blocked, so replies may be unread in the socket: they are read first.
            self._sweep_deferred = True
            self._sweep_at(now + _STALL)
            return
        self._sweep_deferred = False
        if self._calls.expire(now):
            # One late call is enough: later replies on this connection could resolve the wrong call, and a
            # server that was slow once is reconnected within milliseconds.
            self._keeper.trip(f"no answer within {self.budget * 1000:.0f} ms")
        self._arm()

    # ---- callbacks of the keeper (see `keeper.ConnectionUser`) -----------------------------------------

    async def greet(self, wire: Wire) -> None:
        """Loads the scripts, and tries every command that this link uses. Raises RefusedError, also if the
        server exceeds the budget."""
        self._greeting = wire
        self._suspected.clear()
        try:
            await self._probe(wire)
        finally:
            self._greeting = None

    async def examine(self, wire: Wire) -> None:
        """Probes the connection after a call was refused. Raises RefusedError if the server is unusable; else
        logs the refusal, once for each command and error code."""
        suspected, self._suspected = self._suspected, {}
        await self._probe(wire)
        for refusal, text in suspected.items():
            self._warn(refusal, text)

    async def _probe(self, wire: Wire) -> None:
        """Raises RefusedError if a command that this link needs is refused, or not answered within the
        budget."""
        loop, keys = asyncio.get_running_loop(), self.keys
        deadline = loop.time() + self.budget
        scripts, script = (HINTS, probe_hints) if self._use is Use.hints else (EVENTS, probe_events)
        commands = [probe(key) for key in keys.probes]
        commands += [publish(keys.scratch_channel, b"probe"), script(keys.scratch, keys.scratch_channel)]
        calls = deque(Call(Command(None, script.load, "script load"), None, deadline) for script in scripts)
        checks = [Call(command, loop.create_future(), deadline) for command in commands]
        calls.extend(checks)
        wire.send(self._calls.put_in_flight(calls))
        self._arm()
        for check in checks:
            reply = None if check.future is None else await check.future
            if isinstance(reply, ReplyError):
                raise RefusedError(explain(reply))
            if reply is None:
                timed_out = f"no answer to the greeting within {self.budget * 1000:.0f} ms"
                raise RefusedError(wire.why if wire.lost else timed_out)

    def on_up(self, wire: Wire) -> None:
        self._circuit_closed.set()
        self._flush()

    def on_lost(self) -> None:
        self._calls.fail_inflight(asyncio.get_running_loop().time())

    def on_away(self) -> None:
        self._calls.drop_unsent()

    def on_replies(self, replies: list[Reply]) -> None:
        inflight = self._calls.inflight
        answered = 0
        for reply in replies:
            if not inflight:
                # An earlier reply of this batch closed the connection, or the server sent a reply to no
                # command.
                self._keeper.drop("a reply to no call")
                break
            call = inflight.popleft()
            if isinstance(reply, ReplyError):
                self._on_error(call, reply)
            else:
                answered += 1
                call.resolve(b"" if reply is None else reply)
        self._calls.counters.answered += answered

    def _on_error(self, call: Call, error: ReplyError) -> None:
        source = call.command.by_source()
        wire = self._keeper.wire or self._greeting
        if error.code == "NOSCRIPT" and source is not None and wire is not None:
            self.counters.reloaded += 1
            self._calls.inflight.append(call)
            wire.send(source)
            return
        self.counters.failed += 1
        self.counters.refused += 1
        call.resolve(error)
        code = code_of(error)
        if code in UNFIT:
            self._keeper.trip(explain(error))
        elif self._keeper.wire is None or call.command.name == "script load":
            pass  # `greet` raises, and the keeper logs the reason
        elif code in SUSPECT:
            self._suspected.setdefault((call.command.name, code), explain(error))
            self._keeper.examine_soon()
        else:
            self._warn((call.command.name, code), explain(error))

    def _warn(self, refusal: tuple[str, str], text: str) -> None:
        """Logs a refusal (command, code), at WARNING for the first time."""
        level = logging.DEBUG if refusal in self._warned else logging.WARNING
        self._warned.add(refusal)  # bounded by the number of commands and codes
        _log.log(
            level,
            "Redis (%s) refuses %s: %s. Runs are unaffected, but hints or streams may be late or incomplete",
            self.address.redacted,
            refusal[0],
            text,
        )
