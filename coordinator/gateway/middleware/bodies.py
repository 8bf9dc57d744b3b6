"""What a request brings: at most so much, and within a time. What it has to be is for the routes."""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.caller import payer
from coordinator.gateway.errors import RETRY_AFTER, answer
from coordinator.gateway.middleware.refusal import values

WITHIN = 60.0
"""Seconds for the whole body, from when it is first asked for. Who sends slower holds a connection, and
sends nothing."""

ROOM = 16
"""Bodies of the largest size that may be incomplete at the same time, whoever sends them."""

SHARE = 4
"""Of the room one caller may have one part in so many, but one body of the largest size in any case."""

_AT_LEAST = 64 << 20  # bytes


class Bodies:
    """Counts while the body is read, so it holds for bodies of unknown length too."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, within: float = WITHIN) -> None:
        self._app, self._max_bytes, self._within = app, max_bytes, within
        self._room = max(_AT_LEAST, ROOM * max_bytes)
        self._share = max(self._room // SHARE, max_bytes)
        self._taken = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif any(_exceeds(declared, self._max_bytes) for declared in values(scope, "content-length")):
            too_large = self._too_large()
            await answer(too_large.status_code, too_large.detail, too_large.headers)(scope, receive, send)
        else:
            body = _Body(self, payer(scope.get("state", {}).get("caller"), scope), receive)
            try:
                await self._app(scope, body.receive, send)
            finally:
                body.release()

    def _too_large(self) -> HTTPException:
        """The server reads on for a moment after the answer: closed with half a body unread, the connection
        would be reset before the client has read it."""
        detail = f"the body is larger than {self._max_bytes} bytes"
        return HTTPException(413, detail, {"Connection": "close"})

    def take(self, caller: str, size: int, more: int) -> None:
        """An incomplete body of the caller has `size` bytes, `more` of them new. Raises HTTPException."""
        if size > self._max_bytes:
            raise self._too_large()
        if self._taken[caller] + more > self._share:
            raise _no_room("you have as many incomplete bodies at this worker as one caller may have")
        if more > self._room:
            raise _no_room("this worker reads as many bodies as it has room for")
        self._room -= more
        self._taken[caller] += more

    def give_back(self, caller: str, size: int) -> None:
        self._room += size
        self._taken[caller] -= size
        if not self._taken[caller]:
            del self._taken[caller]

    @property
    def within(self) -> float:
        return self._within


class _Body:
    """Of one request. Its bytes count while it is incomplete: then the app parses it, and has objects."""

    def __init__(self, bodies: Bodies, caller: str, receive: Receive) -> None:
        self._bodies, self._caller, self._receive = bodies, caller, receive
        self._size = self._taken = 0
        self._complete = False
        self._deadline: float | None = None

    async def receive(self) -> Message:
        if self._complete:  # only the end of the connection is still to come, when it likes
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._bodies.within
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body did not come within {self._bodies.within:g} s"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        more = len(message.get("body", b""))
        self._size += more
        self._bodies.take(self._caller, self._size, more)
        self._taken += more
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._complete:
            self.release()
        return message

    def release(self) -> None:
        self._bodies.give_back(self._caller, self._taken)
        self._taken = 0


def _no_room(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(RETRY_AFTER), "Connection": "close"})


def _exceeds(declared: str, limit: int) -> bool:
    """What is no number, or a wrong one, is the server's affair: here it is only not believed."""
    return declared.isdecimal() and int(declared[:20]) > limit
