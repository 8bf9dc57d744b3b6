"""The outermost middleware: each request and each WebSocket gets an id, a log record and metrics, however it
ends. Each response gets security headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.caller import Caller
from coordinator.gateway.middleware.answer_headers import with_protection
from coordinator.gateway.middleware.refusal import values
from coordinator.gateway.middleware.sockets import SocketClosed, SocketOpened, SocketWatch
from coordinator.gateway.request_id import HEADER, current, request_id

access = logging.getLogger("coordinator.gateway.access")

UNMATCHED = "unmatched"
_MAX_LOGGED = 500  # characters of a path in the log
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Exchange(NamedTuple):
    """A completed request, or the handshake of a WebSocket. `route` is the template and never the path, whose
    number of values is unbounded. `status` None = the client disconnected before the response began."""

    method: str
    route: str
    status: int | None
    seconds_to_response: float
    """Until the response began, or the request ended without one."""


Observed: TypeAlias = Exchange | SocketOpened | SocketClosed


class Envelope:
    """`access_log`: whether each request and each socket is logged; exceptions always are."""

    def __init__(
        self,
        app: ASGIApp,
        observers: Sequence[Callable[[Observed], None]] = (),
        *,
        access_log: bool = True,
    ) -> None:
        self._app, self._observers, self._access_log = app, tuple(observers), access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        assigned = _id_of(scope)
        token = current.set(assigned)
        response = _ResponseWatch(send, assigned)
        try:
            await self._app(scope, receive, response.send)
        except Exception:
            if not response.complete:
                raise
            # The response is complete, and the handler that created it has logged the traceback.
        finally:
            self._close(scope, response)
            current.reset(token)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = current.set(_id_of(scope))
        socket = SocketWatch(receive, send, lambda: self._observe(SocketOpened()))
        try:
            await self._app(scope, socket.receive, socket.send)
        finally:
            self._close_socket(scope, socket)
            current.reset(token)

    def _observe(self, observed: Observed) -> None:
        for observe in self._observers:
            observe(observed)

    def _close(self, scope: Scope, response: _ResponseWatch) -> None:
        method: str = scope["method"]
        duration = time.perf_counter() - response.started_at
        seconds = duration if response.seconds_to_response is None else response.seconds_to_response
        shown = method if method in _METHODS else "other"
        self._observe(Exchange(shown, _route_of(scope), response.status, seconds))
        if self._logs:
            self._log("request", scope, response.status, duration, {"method": method[:_MAX_LOGGED]})

    def _close_socket(self, scope: Scope, socket: SocketWatch) -> None:
        """The line of a socket has its messages in place of a method: `received` are commands, `sent` their
        answers and events."""
        duration = time.perf_counter() - socket.started_at
        seconds = duration if socket.seconds_to_response is None else socket.seconds_to_response
        self._observe(Exchange("GET", _route_of(scope), socket.status, seconds))
        if socket.opened:
            self._observe(SocketClosed(_route_of(scope), socket.code))
        if self._logs:
            fields = {"code": socket.code, "received": socket.received, "sent": socket.sent}
            self._log("socket", scope, socket.status, duration, fields)

    @property
    def _logs(self) -> bool:
        return self._access_log and access.isEnabledFor(logging.INFO)

    def _log(
        self, kind: str, scope: Scope, status: int | None, duration: float, fields: Mapping[str, object]
    ) -> None:
        """Logs the request or socket without query and headers, which may contain secrets."""
        caller: Caller | None = scope.get("state", {}).get("caller")
        client = scope.get("client")
        extra = {
            **fields,
            "path": scope["path"][:_MAX_LOGGED],
            "status": status,
            "ms": round(duration * 1000, 1),
            "client": client[0] if client else None,
            "user": caller.user_id if caller else None,
            "key": caller.key_id if caller else None,
        }
        access.info(kind, extra=extra)


def _id_of(scope: Scope) -> str:
    client_ids = values(scope, HEADER)
    return request_id(client_ids[0] if len(client_ids) == 1 else None)


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED)


class _ResponseWatch:
    """Adds headers to a response and records its status and times."""

    def __init__(self, send: Send, assigned_id: str) -> None:
        self._send, self._id = send, assigned_id.encode()
        self.started_at = time.perf_counter()
        self.status: int | None = None
        self.seconds_to_response: float | None = None
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.seconds_to_response = time.perf_counter() - self.started_at
            name = HEADER.encode()
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != name]
            message = {**message, "headers": [*with_protection(headers), (name, self._id)]}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)
