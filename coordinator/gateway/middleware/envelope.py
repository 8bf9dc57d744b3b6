"""The outermost middleware: each request gets an id, a log record and metrics, however it ends. Each response
gets security headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.caller import Caller
from coordinator.gateway.middleware.answer_headers import with_protection
from coordinator.gateway.middleware.refusal import values
from coordinator.gateway.request_id import HEADER, current, request_id

access = logging.getLogger("coordinator.gateway.access")

UNMATCHED = "unmatched"
_MAX_LOGGED = 500  # characters of a path in the log
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Exchange(NamedTuple):
    """A completed request. `route` is the template and never the path, whose number of values is unbounded.
    `status` None = the client disconnected before the response began."""

    method: str
    route: str
    status: int | None
    seconds_to_response: float
    """Until the response began, or the request ended without one."""


class Envelope:
    """`access_log`: whether each request is logged; exceptions always are."""

    def __init__(
        self,
        app: ASGIApp,
        observers: Sequence[Callable[[Exchange], None]] = (),
        *,
        access_log: bool = True,
    ) -> None:
        self._app, self._observers, self._access_log = app, tuple(observers), access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_ids = values(scope, HEADER)
        assigned = request_id(client_ids[0] if len(client_ids) == 1 else None)
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

    def _close(self, scope: Scope, response: _ResponseWatch) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method: str = scope["method"]
        duration = time.perf_counter() - response.started_at
        exchange = Exchange(
            method if method in _METHODS else "other",
            route,
            response.status,
            duration if response.seconds_to_response is None else response.seconds_to_response,
        )
        for observe in self._observers:
            observe(exchange)
        if self._access_log and access.isEnabledFor(logging.INFO):
            self._log(scope, response.status, duration)

    def _log(self, scope: Scope, status: int | None, duration: float) -> None:
        """Logs the request without query and headers, which may contain secrets."""
        caller: Caller | None = scope.get("state", {}).get("caller")
        client = scope.get("client")
        fields = {
            "method": scope["method"][:_MAX_LOGGED],
            "path": scope["path"][:_MAX_LOGGED],
            "status": status,
            "ms": round(duration * 1000, 1),
            "client": client[0] if client else None,
            "user": caller.user_id if caller else None,
            "key": caller.key_id if caller else None,
        }
        access.info("request", extra=fields)


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
