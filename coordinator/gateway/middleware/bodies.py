"""What a request brings: at most so much, within a time, and if it says JSON then JSON that every
decoder reads alike.

Python's own decoder takes NaN, lone surrogates, UTF-16 and any depth, and stumbles later over what it took:
when the values are stored, or sent back. So a stricter one looks first.
"""

from __future__ import annotations

import asyncio
import math
import re
from email.message import Message as Headers
from typing import Any, cast

from pydantic_core import from_json, to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway.errors import answer
from coordinator.gateway.middleware.refusal import values

WITHIN = 60.0
"""Seconds for the whole body. Who sends slower than that holds a connection, not a message."""

# The only ways to write a number that becomes infinite.
_PERHAPS_INFINITE = re.compile(rb"[eE]\+?\d{3,}|\d{300,}")


class _TooLarge(Exception):
    pass


class _Gone(Exception):
    pass


class Bodies:
    def __init__(self, app: ASGIApp, *, max_bytes: int, max_metadata_bytes: int) -> None:
        self._app, self._max_bytes, self._max_metadata_bytes = app, max_bytes, max_metadata_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(WITHIN):
                body = await self._read(scope, receive)
        except _TooLarge:
            # The rest of it is still to come; nobody reads on.
            no = answer(413, f"the body is larger than {self._max_bytes} bytes", {"Connection": "close"})
        except TimeoutError:
            no = answer(408, f"the body did not come within {WITHIN:g} s", {"Connection": "close"})
        except _Gone:
            return
        else:
            wrong = self._fault(body) if body and _says_json(scope) else None
            if wrong is None:
                await self._app(scope, _again(body, receive), send)
                return
            no = answer(422, [wrong])
        await no(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The length that is declared is believed only where it is too large."""
        for declared in values(scope, "content-length"):
            if declared.isdigit() and int(declared[:20]) > self._max_bytes:
                raise _TooLarge
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLarge
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _fault(self, body: bytes) -> dict[str, Any] | None:
        """What is wrong, in the shape in which a body that does not fit its model is told."""
        try:
            value = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            return _fault("json_invalid", [], f"JSON decode error: {error}")
        if _PERHAPS_INFINITE.search(body) and not _finite(value):
            return _fault("json_invalid", [], "JSON decode error: a number is too large")
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict) and self._oversized(cast("dict[str, Any]", item)):
                most = self._max_metadata_bytes
                return _fault("metadata_too_large", ["metadata"], f"metadata may have at most {most} bytes")
        return None

    def _oversized(self, item: dict[str, Any]) -> bool:
        metadata = item.get("metadata")
        return metadata is not None and len(to_json(metadata)) > self._max_metadata_bytes


def _fault(kind: str, where: list[str], message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *where], "msg": message}


def _says_json(scope: Scope) -> bool:
    """As the framework decides whether to decode a body."""
    headers = Headers()
    headers["content-type"] = next(iter(values(scope, "content-type")), "")
    subtype = headers.get_content_subtype()
    return headers.get_content_maintype() == "application" and (
        subtype == "json" or subtype.endswith("+json")
    )


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_finite(item) for item in cast("dict[str, object]", value).values())
    if isinstance(value, list):
        return all(_finite(item) for item in cast("list[object]", value))
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes: a route learns that its client has gone."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
