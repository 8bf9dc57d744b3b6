"""Limits the size, the duration and the total memory of request bodies. Routes validate their contents."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Generator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.caller import quota_key
from coordinator.gateway.errors import RETRY_AFTER, error_response
from coordinator.gateway.middleware.head import head_of

BODY_TIMEOUT = 60.0
"""Seconds for the whole body, from the first read. A slower client would occupy a connection."""

MAX_INCOMPLETE = 16
"""How many bodies of the largest size may be incomplete at the same time, of all callers together."""

SHARE = 4
"""One caller may use 1/4 of that memory, and at least one body of the largest size."""

_MIN_ROOM = 64 << 20  # bytes


class Bodies:
    """Counts bytes while a body is read, so the limits apply to bodies of unknown length as well."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, within: float = BODY_TIMEOUT) -> None:
        self._app, self._max_bytes, self._within = app, max_bytes, within
        self._room = max(_MIN_ROOM, MAX_INCOMPLETE * max_bytes)
        self._share = max(self._room // SHARE, max_bytes)
        self._incomplete = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif any(
            _exceeds(declared, self._max_bytes) for declared in head_of(scope).get(b"content-length", ())
        ):
            too_large = self._too_large()
            await error_response(too_large.status_code, too_large.detail, too_large.headers)(
                scope, receive, send
            )
        else:
            body = _Body(self, quota_key(scope.get("state", {}).get("caller"), scope), receive)
            try:
                await self._app(scope, body.receive, send)
            finally:
                body.release()

    def _too_large(self) -> HTTPException:
        """The server reads and discards for a moment after the response: if it closed the connection with
        unread data, the kernel would reset it, and the client could lose the response."""
        detail = f"the body is larger than {self._max_bytes} bytes"
        return HTTPException(413, detail, {"Connection": "close"})

    def reserve(self, caller: str, size: int, growth: int) -> None:
        """Reserves memory: an incomplete body of the caller has grown by `growth` to `size` bytes. Raises
        HTTPException."""
        if size > self._max_bytes:
            raise self._too_large()
        if self._incomplete[caller] + growth > self._share:
            raise _overloaded("your incomplete request bodies at this worker have reached the limit")
        if growth > self._room:
            raise _overloaded("the incomplete request bodies at this worker have reached the limit")
        self._room -= growth
        self._incomplete[caller] += growth

    def release(self, caller: str, size: int) -> None:
        self._room += size
        self._incomplete[caller] -= size
        if not self._incomplete[caller]:
            del self._incomplete[caller]

    @property
    def within(self) -> float:
        return self._within


class PlainBodies:
    """Refuses compressed bodies: the routes behind it decode none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for coding in head_of(scope).get(b"content-encoding", ()):
                if coding.strip().lower() not in ("", "identity"):
                    text = f"Content-Encoding {coding!r:.50} is not supported: send the body without it"
                    await error_response(415, text, {"Accept-Encoding": "identity"})(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class _Rest(Generator[object, object, Message]):
    """An awaitable that continues with `steps`, whose first step has yielded `first`."""

    def __init__(self, first: object, steps: Generator[object, object, Message]) -> None:
        self._first: tuple[object, ...] = (first,)
        self._steps = steps

    def __await__(self) -> Generator[object, object, Message]:
        return self

    def send(self, value: object, /) -> object:
        if self._first:
            (first,), self._first = self._first, ()
            return first
        return self._steps.send(value)

    # Any: as in Generator, whose overloads differ.
    def throw(self, *error: Any) -> object:
        return self._steps.throw(*error)


class _Body:
    """The body of one request. Its bytes count until it is complete; then the app parses it."""

    def __init__(self, bodies: Bodies, caller: str, receive: Receive) -> None:
        self._bodies, self._caller, self._receive = bodies, caller, receive
        self._size = self._incomplete = 0
        self._complete = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        if self._complete:  # only the disconnect follows, without a deadline
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._bodies.within
        steps = self._receive().__await__()
        try:
            waits_for = next(steps)
        except StopIteration as received:  # most bodies have arrived with the head
            message: Message = received.value
        else:
            message = await self._in_time(_Rest(waits_for, steps), self._deadline)
        growth = len(message.get("body", b""))
        self._size += growth
        self._bodies.reserve(self._caller, self._size, growth)
        self._incomplete += growth
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._complete:
            self.release()
        return message

    async def _in_time(self, received: Awaitable[Message], deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await received
        except TimeoutError:
            detail = f"the body was not complete within {self._bodies.within:g} s"
            raise HTTPException(408, detail, {"Connection": "close"}) from None

    def release(self) -> None:
        self._bodies.release(self._caller, self._incomplete)
        self._incomplete = 0


def _overloaded(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(RETRY_AFTER), "Connection": "close"})


def _exceeds(declared: str, limit: int) -> bool:
    """Returns whether a Content-Length exceeds `limit`. The HTTP server rejects invalid values."""
    return declared.isdecimal() and int(declared[:20]) > limit
