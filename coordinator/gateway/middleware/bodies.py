"""What a request brings: at most so much, and within a time. What it has to be is for the routes."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.errors import answer
from coordinator.gateway.middleware.refusal import values

WITHIN = 60.0
"""Seconds for the whole body, from when it is first asked for. Who sends slower holds a connection, and
sends nothing."""


class Bodies:
    """Counts while the body is read, so it holds for bodies of unknown length too."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, within: float = WITHIN) -> None:
        self._app, self._max_bytes, self._within = app, max_bytes, within

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif any(_exceeds(declared, self._max_bytes) for declared in values(scope, "content-length")):
            too_large = self._too_large()
            await answer(too_large.status_code, too_large.detail, too_large.headers)(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _too_large(self) -> HTTPException:
        """The connection stays open: closed with half a body unread, it would be reset before the client has
        read the answer. The server throws away the rest as it comes."""
        return HTTPException(413, f"the body is larger than {self._max_bytes} bytes")

    def _counted(self, receive: Receive) -> Receive:
        size, complete, deadline = 0, False, None

        async def counted() -> Message:
            nonlocal size, complete, deadline
            if complete:  # only the end of the connection is still to come, when it likes
                return await receive()
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + self._within
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not come within {self._within:g} s", {"Connection": "close"}
                ) from None
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise self._too_large()
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return counted


def _exceeds(declared: str, limit: int) -> bool:
    """What is no number, or a wrong one, is the server's affair: here it is only not believed."""
    return declared.isdecimal() and int(declared[:20]) > limit
