"""HTTP in one worker, and how it ends: no request is turned away that another worker could have had."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol, cast

import uvicorn

from coordinator.gateway.server.accepting import Acceptor
from coordinator.gateway.server.failures import FAILED, UNREACHABLE, CannotServe
from coordinator.workers.signals import draining_on_signals
from stores.tasks import begin_soon

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("coordinator.serve")

LINGER = 0.5
"""Seconds. Who is about to ask something on a connection that is open gets his answer, and is told with it
that the connection ends. To close it at once would break the request that is on its way."""

ARRIVED = 0.5
"""Seconds. Whatever has come in by then has so long to be admitted."""

FAREWELL = 0.3
"""Seconds. Streams whose run has just ended tell it in this time; the rest are cut, and go on elsewhere."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where the platform has it."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return new_event_loop


class Underway:
    """The app, with count of the requests that have no answer yet. Pure ASGI: nothing is buffered.

    `closing`: each answer that begins from here on ends its connection.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.closing = False
        self._unanswered = 0
        self._none = asyncio.Event()
        self._none.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        def begun() -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._unanswered -= 1
                if not self._unanswered:
                    self._none.set()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self.closing:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
                begun()
            await send(message)

        self._unanswered += 1
        self._none.clear()
        try:
            await self._app(scope, receive, sending)
        finally:
            begun()

    async def all_answered(self, within: float) -> None:
        """Every request that is here has at least the beginning of its answer, or `within` s are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._none.wait()


def _protocol(connections: int | None) -> type[asyncio.Protocol] | Literal["h11"]:
    """h11 counts headers itself, and nothing else."""
    try:
        from coordinator.gateway.server.protocol import BoundedProtocol  # noqa: PLC0415 - httptools may be absent
    except ImportError:
        logger.warning("httptools is not installed: connections of this server are not bounded")
        return "h11"

    class Protocol(BoundedProtocol):
        max_connections = connections

    return Protocol


_MEANT = ("ASGI callable returned without completing response.", "Cancel %s running task(s)")


def _meant(record: logging.LogRecord) -> bool:
    """False for what uvicorn takes for mistakes, one for each open answer, and is how a worker leaves."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not str(record.msg).startswith(_MEANT)


class Http(uvicorn.Server):
    """On one inherited socket. Signals are handled by the worker, and so is what the app opens.

    `lifespan`: whether it is this server that opens and closes the app. `connections`: how many there may be;
    None = as many as descriptors allow.
    """

    def __init__(
        self, app: App, *, lifespan: Literal["on", "off"] = "off", connections: int | None = None
    ) -> None:
        self.underway = Underway(app)
        super().__init__(
            uvicorn.Config(
                self.underway,
                loop="none",  # it is running
                http=_protocol(connections),
                ws="none",
                lifespan=lifespan,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the gateway knows which proxies are to be believed
                timeout_graceful_shutdown=FAREWELL,  # type: ignore[arg-type]  # handed to asyncio, which takes parts of a second
            )
        )
        self.listening = asyncio.Event()
        self.servers: list[Any] = []  # a signal may come before it listens

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, but for accepting. `sockets` are given."""
        config, state = self.config, self.server_state
        made = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(UNREACHABLE)
        shared = self.lifespan.state
        for one in sockets or ():
            acceptor = Acceptor(one, lambda: made(config=config, server_state=state, app_state=shared))
            acceptor.start()
            self.servers.append(acceptor)
        self.started = True
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def turn_away(self) -> None:
        """No new connections; those that are open end with their next answer, or when nothing is asked on
        them for `LINGER` s. Returns when all that has come in is being answered."""
        for one in self.servers:
            one.close()
        self.underway.closing = True
        if self.server_state.connections:
            await asyncio.sleep(LINGER)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self.underway.all_answered(ARRIVED)

    def end(self) -> None:
        """What is still open after `FAREWELL` is cut: its client finds another worker."""
        if open_answers := len(self.server_state.tasks):
            logger.info("%d open answers are broken off: their clients go on elsewhere", open_answers)
        logging.getLogger("uvicorn.error").addFilter(_meant)
        self.should_exit = True


class Manager(Protocol):
    @property
    def grace(self) -> float: ...
    async def drain(self, grace: float | None = None) -> None: ...
    def hurry(self) -> None: ...


class Retreat:
    """What `draining_on_signals` drains: first the door is closed, then those who are inside are served,
    then the runs get their grace."""

    def __init__(self, http: Http, manager: Manager) -> None:
        self._http, self._manager = http, manager
        self._hurried = False

    @property
    def grace(self) -> float:
        return self._manager.grace

    async def drain(self) -> None:
        began = asyncio.get_running_loop().time()
        await self._http.turn_away()
        spent = asyncio.get_running_loop().time() - began
        await self._manager.drain(0.0 if self._hurried else max(0.0, self.grace - spent))

    def hurry(self) -> None:
        """Also before the drain of the runs has begun."""
        self._hurried = True
        self._manager.hurry()


async def serve_until_drained(
    http: Http,
    manager: Manager,
    port: socket.socket,
    *,
    ready: Callable[[], Awaitable[object]],
    let_go: Callable[[], object],
) -> None:
    """Serve on a bound socket until a signal has drained `manager`; then open answers break off. `ready` is
    called when it listens, `let_go` when no run is left. Raises CannotServe if it ends before it listens."""
    with draining_on_signals(Retreat(http, manager)) as departure:
        serving = begin_soon(http.serve(sockets=[port]))
        listening = begin_soon(http.listening.wait())
        await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if serving.done():
            await serving
            raise CannotServe("the HTTP server ended before it listened", code=FAILED)
        await ready()
        await departure.serving(_ended(serving))
        let_go()
        http.end()
        await serving


async def _ended(serving: asyncio.Task[None]) -> None:
    await asyncio.shield(serving)
