"""The HTTP server of one worker, and its drain: no request is refused that another worker could answer."""

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

Scope = MutableMapping[str, Any]  # Any: as ASGI has it
Message = MutableMapping[str, Any]  # Any: as ASGI has it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("coordinator.serve")

KEEP_ALIVE_LINGER = 0.5
"""Seconds that keep-alive connections stay open while the worker drains. Requests that are in transit are
answered, with `Connection: close`. Closing at once would abort them."""

ANSWER_LIMIT = 0.5
"""Seconds that requests have, once the connections are closed for new ones, until their response begins."""

ABORT_AFTER = 0.3
"""Seconds in which streams of runs that have just ended send their last events. Then all other streams are
aborted; their clients resume at another worker."""

ASIDE_INTERVAL = 2.0
"""Seconds between two checks of a drained worker whether others listen."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns uvloop's event loop factory, or None if uvloop is not installed."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return new_event_loop


class InFlight:
    """Counts the requests of an ASGI app whose response has not begun. Nothing is buffered.

    While `closing` is set, each response that begins carries `Connection: close`.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.closing = False
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        def mark_answered() -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._unanswered -= 1
                if not self._unanswered:
                    self._all_answered.set()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self.closing:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
                mark_answered()
            await send(message)

        self._unanswered += 1
        self._all_answered.clear()
        try:
            await self._app(scope, receive, send_counted)
        finally:
            mark_answered()

    async def all_answered(self, within: float) -> None:
        """Waits until the response of every request has begun, at most `within` (s)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._all_answered.wait()


def _protocol(connections: int | None) -> type[asyncio.Protocol] | Literal["h11"]:
    """Returns the bounded protocol, or h11 if httptools is not installed: h11 bounds only the headers."""
    try:
        from coordinator.gateway.server.protocol import BoundedProtocol  # noqa: PLC0415 - httptools may be absent
    except ImportError:
        logger.warning("httptools is not installed: connections of this server have no limits")
        return "h11"

    class Protocol(BoundedProtocol):
        max_connections = connections

    return Protocol


def _socket(**given: object) -> asyncio.Protocol:
    """The protocol of a connection that has become a WebSocket. The frames of `websockets` are imported with
    the first one: they take 2 MiB of each worker."""
    from coordinator.gateway.server.sockets import BoundedSocket  # noqa: PLC0415 - see above

    return cast("Callable[..., asyncio.Protocol]", BoundedSocket)(**given)


MAX_MESSAGE = 4 << 20
"""Bytes of one message of a WebSocket: as large as the body of a request, by default."""
KEEPALIVE = 20.0
"""Seconds between two pings of a WebSocket, and for which their answer may take: then it is aborted."""

_EXPECTED = ("ASGI callable returned without completing response.", "Cancel %s running task(s)")


def _is_fault(record: logging.LogRecord) -> bool:
    """Log filter: drops the errors that uvicorn logs for each response that a drained worker aborts."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not str(record.msg).startswith(_EXPECTED)


class Http(uvicorn.Server):
    """HTTP server on one inherited socket. The worker handles signals.

    `lifespan`: whether this server runs the app's lifespan; else the worker does. `connections`: the maximal
    number of open connections; None = as many as the descriptors allow.
    """

    def __init__(
        self, app: App, *, lifespan: Literal["on", "off"] = "off", connections: int | None = None
    ) -> None:
        self.in_flight = InFlight(app)
        super().__init__(
            uvicorn.Config(
                self.in_flight,
                loop="none",  # it is running
                http=_protocol(connections),
                ws=cast("type[asyncio.Protocol]", _socket),
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,  # 40 KiB for each connection
                ws_ping_interval=KEEPALIVE,
                ws_ping_timeout=KEEPALIVE,
                lifespan=lifespan,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the gateway knows which proxies are trusted
                timeout_graceful_shutdown=ABORT_AFTER,  # type: ignore[arg-type]  # passed to asyncio, which accepts fractions of a second
            )
        )
        self.listening = asyncio.Event()
        self._aside: asyncio.Task[None] | None = None
        # Any: as uvicorn.Server has it.
        self.servers: list[Any] = []  # set here, because a signal may arrive before `startup`

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's method to accept connections with `Acceptor`. `sockets` are always given."""
        config, state = self.config, self.server_state
        protocol = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(UNREACHABLE)
        lifespan_state = self.lifespan.state
        for one in sockets or ():
            acceptor = Acceptor(
                one, lambda: protocol(config=config, server_state=state, app_state=lifespan_state)
            )
            acceptor.start()
            self.servers.append(acceptor)
        self.started = True
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def stop_accepting(self) -> None:
        """Accepts no more connections. Open ones are closed after their next response, or after
        `KEEP_ALIVE_LINGER` without a request. Returns when the response of every received request has begun,
        or after `ANSWER_LIMIT`."""
        if self._aside is not None:
            self._aside.cancel()
        for one in self.servers:
            one.close()
        self.in_flight.closing = True
        await self._close_connections()

    async def _close_connections(self) -> None:
        if self.server_state.connections:
            await asyncio.sleep(KEEP_ALIVE_LINGER)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self.in_flight.all_answered(ANSWER_LIMIT)

    async def step_aside(self) -> None:
        """Leaves new connections to the other workers of the port, and those that are open after their next
        response, because this worker is about to drain while its process stays. Without another worker it
        keeps listening, so that clients get the reason for a refusal. Returns when requests that are received
        have been answered."""
        if not all(one.shares_port for one in self.servers):
            return
        if await self._others_answer():
            await self._close_connections()
        self._aside = begin_soon(self._stay_aside())

    async def _others_answer(self) -> bool:
        """Stops listening if another process listens on the port."""
        for one in self.servers:
            one.pause()
        self.in_flight.closing = all([await one.others_listen() for one in self.servers])
        if not self.in_flight.closing:
            for one in self.servers:
                one.start()
        return self.in_flight.closing

    async def _stay_aside(self) -> None:
        """Listens while no other process does, for example while the others are restarted."""
        while True:
            await asyncio.sleep(ASIDE_INTERVAL)
            if any(one.closed for one in self.servers):
                return
            if not self.in_flight.closing:
                await self._others_answer()
            elif not all([await one.others_listen() for one in self.servers]):
                self.in_flight.closing = False
                for one in self.servers:
                    one.start()

    def finish(self) -> None:
        """Ends the server. Responses that are open after `ABORT_AFTER` are aborted; their clients reconnect
        to another worker."""
        if open_answers := len(self.server_state.tasks):
            logger.info("%d open responses are aborted: their clients resume at another worker", open_answers)
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
        self.should_exit = True


class Draining(Protocol):
    """`manager.worker`, or all workers of this process as one."""

    @property
    def grace(self) -> float: ...
    async def drain(self, grace: float | None = None) -> None: ...
    def end_grace(self) -> None: ...


class StagedDrain:
    """The drain of a server, for `draining_on_signals`: stops accepting, answers the requests in flight, then
    drains the manager for the rest of the grace."""

    def __init__(self, http: Http, worker: Draining) -> None:
        self._http, self._worker = http, worker
        self._grace_ended = False

    @property
    def grace(self) -> float:
        return self._worker.grace

    async def drain(self) -> None:
        began = asyncio.get_running_loop().time()
        await self._http.stop_accepting()
        spent = asyncio.get_running_loop().time() - began
        await self._worker.drain(0.0 if self._grace_ended else max(0.0, self.grace - spent))

    def end_grace(self) -> None:
        """Ends the grace, also before the drain of the manager has begun."""
        self._grace_ended = True
        self._worker.end_grace()


async def serve_until_drained(
    http: Http,
    worker: Draining,
    port: socket.socket,
    *,
    ready: Callable[[], Awaitable[object]],
    abort_streams: Callable[[], object],
) -> None:
    """Serves on a bound socket until a signal has drained `worker`, then aborts the open responses. `ready`
    is called once when the server listens, `abort_streams` when `worker` is drained. Raises CannotServe if
    the server ends before it listens."""
    with draining_on_signals(StagedDrain(http, worker)) as shutdown:
        serving = begin_soon(http.serve(sockets=[port]))
        listening = begin_soon(http.listening.wait())
        await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if serving.done():
            await serving
            raise CannotServe("the HTTP server ended before it listened", code=FAILED)
        await ready()
        await shutdown.serving(_ended(serving))
        abort_streams()
        http.finish()
        await serving


async def _ended(serving: asyncio.Task[None]) -> None:
    await asyncio.shield(serving)
