"""The link: one client connection for all commands of a process.

Calls made in one turn of the event loop leave as one write and are answered together. Nothing is retried
except a script whose hash the server did not know. Every call ends within the budget, one way or another.
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
"""Calls waiting or in flight. At 10,000 runs/s this is what a third of a second makes."""

_STALL = 0.05
"""Seconds by which a timer may be late before it says more about this process than about Redis."""


class Use(Enum):
    """What a link carries, and which scripts and permissions it needs for that."""

    hints = "link"
    events = "event link"


class RedisLink:
    """Construction does no I/O and needs no running loop; the first call connects. One event loop per link.

    `call` and `post` never raise because Redis is away, slow or full. Away, they do no I/O.
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
        self._pardoned = False
        self._greeting: Wire | None = None
        self._suspected: dict[tuple[str, str], str] = {}
        self._told: set[tuple[str, str]] = set()
        self._back = asyncio.Event()
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
        """Return when the circuit is closed; at once if it is closed now, or if `aclose` was called."""
        while self._keeper.away and not self._closed:
            self._back.clear()
            await self._back.wait()

    async def call(self, command: Command) -> Reply:
        """The reply, or None where there is none: away, late, lost, refused. No command here answers nil."""
        reply = await self.ask(command)
        return None if isinstance(reply, ReplyError) else reply

    async def ask(self, command: Command) -> Reply:
        """As `call`, but a refusal is answered as the server has worded it."""
        future = self.request(command)
        return None if future is None else await future

    def request(self, command: Command) -> asyncio.Future[Reply] | None:
        """As `ask`, in order with `post`. None = it is not sent at all."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        return future if self._enqueue(command, future) else None

    def post(self, command: Command) -> None:
        """Fire and forget. In order with all other calls, but for scripts that had to be sent again."""
        self._enqueue(command, None)

    async def ping(self) -> bool:
        """Does Redis answer within the budget? False at once while it is away."""
        return await self.call(ping()) == b"PONG"

    async def aclose(self) -> None:
        """Let what was asked be answered, within the budget; then disconnect. Idempotent."""
        if not self.away and len(self._calls):
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._enqueue(ping(), future)
            self._closed = True
            await asyncio.wait([future], timeout=self.budget)
        self._closed = True
        self._back.set()
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
        if now - due > _STALL and not self._pardoned:
            # This loop stood still. Replies may lie unread in the socket, and they are read first.
            self._pardoned = True
            self._sweep_at(now + _STALL)
            return
        self._pardoned = False
        if self._calls.expire(now):
            # One is enough: what still came on this connection could answer the wrong call, and a server that
            # was slow just once is back in the milliseconds that a new connection takes.
            self._keeper.trip(f"no answer within {self.budget * 1000:.0f} ms")
        self._arm()

    # ---- what the keeper tells (see `keeper.Tenant`) ---------------------------------------------------

    async def greet(self, wire: Wire) -> None:
        """Load the scripts, then try all that this link is used for. Too slow for the budget is unfit,
        too."""
        self._greeting = wire
        self._suspected.clear()
        try:
            await self._probe(wire)
        finally:
            self._greeting = None

    async def examine(self, wire: Wire) -> None:
        """A call was refused: does that concern all calls? If not, it is logged, once for each kind of
        call."""
        suspected, self._suspected = self._suspected, {}
        await self._probe(wire)
        for call, text in suspected.items():
            self._warn(call, text)

    async def _probe(self, wire: Wire) -> None:
        """Raises RefusedError where a command that this link needs is refused, or not answered in time."""
        loop, keys = asyncio.get_running_loop(), self.keys
        deadline = loop.time() + self.budget
        scripts, script = (HINTS, probe_hints) if self._use is Use.hints else (EVENTS, probe_events)
        commands = [probe(key) for key in keys.probes]
        commands += [publish(keys.scratch_channel, b"probe"), script(keys.scratch, keys.scratch_channel)]
        calls = deque(Call(Command(None, script.load, "script load"), None, deadline) for script in scripts)
        checks = [Call(command, loop.create_future(), deadline) for command in commands]
        calls.extend(checks)
        wire.send(self._calls.take_off(calls))
        self._arm()
        for check in checks:
            reply = None if check.future is None else await check.future
            if isinstance(reply, ReplyError):
                raise RefusedError(explain(reply))
            if reply is None:
                silent = f"no answer to the greeting within {self.budget * 1000:.0f} ms"
                raise RefusedError(wire.why if wire.lost else silent)

    def on_up(self, wire: Wire) -> None:
        self._back.set()
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
                # An earlier one of these replies cost the connection; or it answers what nobody asked.
                self._keeper.drop("a reply to no call")
                break
            call = inflight.popleft()
            if isinstance(reply, ReplyError):
                self._on_error(call, reply)
            else:
                answered += 1
                call.resolve(reply)
        self._calls.counters.answered += answered

    def _on_error(self, call: Call, error: ReplyError) -> None:
        source = call.command.with_source()
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
            pass  # the greeting decides, and its reason is logged
        elif code in SUSPECT:
            self._suspected.setdefault((call.command.name, code), explain(error))
            self._keeper.examine_soon()
        else:
            self._warn((call.command.name, code), explain(error))

    def _warn(self, call: tuple[str, str], text: str) -> None:
        level = logging.DEBUG if call in self._told else logging.WARNING
        self._told.add(call)  # few: names of scripts times codes
        _log.log(level, "Redis (%s) refuses %s: %s", self.address.redacted, call[0], text)
