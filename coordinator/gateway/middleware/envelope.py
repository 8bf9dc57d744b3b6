"""The outermost: each request gets an id, a line in the log and its place in the metrics, however it ends;
each answer gets the headers that protect it."""

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
_LONGEST = 500  # characters of a path in the log
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Exchange(NamedTuple):
    """A request that is over. `route` is the template, never the path: there are as many of these as
    clients like. `status` None = the client had gone before there was one. Times are seconds."""

    method: str
    route: str
    status: int | None
    answered: float
    """Until the answer began."""


class Envelope:
    def __init__(self, app: ASGIApp, observers: Sequence[Callable[[Exchange], None]] = ()) -> None:
        self._app, self._observers = app, tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = values(scope, HEADER)
        name = request_id(given[0] if len(given) == 1 else None)
        token = current.set(name)
        opened = _Opened(send, name)
        try:
            await self._app(scope, receive, opened.send)
        except Exception:
            if not opened.complete:
                raise
            # Answered, and logged with its traceback where it became an answer.
        finally:
            self._close(scope, opened)
            current.reset(token)

    def _close(self, scope: Scope, opened: _Opened) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method: str = scope["method"]
        took = time.perf_counter() - opened.began
        exchange = Exchange(
            method if method in _METHODS else "other",
            route,
            opened.status,
            took if opened.answered is None else opened.answered,
        )
        for observe in self._observers:
            observe(exchange)
        if access.isEnabledFor(logging.INFO):
            self._log(scope, opened.status, took)

    def _log(self, scope: Scope, status: int | None, took: float) -> None:
        """Without the query and the headers, which is where secrets are."""
        caller: Caller | None = scope.get("state", {}).get("caller")
        client = scope.get("client")
        about = {
            "method": scope["method"][:_LONGEST],
            "path": scope["path"][:_LONGEST],
            "status": status,
            "ms": round(took * 1000, 1),
            "client": client[0] if client else None,
            "user": caller.user_id if caller else None,
            "key": caller.key_id if caller else None,
        }
        access.info("request", extra=about)


class _Opened:
    """The answer on its way out."""

    def __init__(self, send: Send, name: str) -> None:
        self._send, self._name = send, name.encode()
        self.began = time.perf_counter()
        self.status: int | None = None
        self.answered: float | None = None
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered = time.perf_counter() - self.began
            name = HEADER.encode()
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != name]
            message = {**message, "headers": [*with_protection(headers), (name, self._name)]}
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)
