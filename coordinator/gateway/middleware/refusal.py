"""Helpers of middleware that refuses requests."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_POLICY_VIOLATION = 1008


async def refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends `response`. A server without the extension for it refuses a WebSocket with 403, whatever
    `response` is."""
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or ()):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
    else:
        await response(scope, receive, send)


def values(scope: Scope, name: str) -> list[str]:
    """Returns all values of a header. Callers must handle several: proxies and servers may choose different
    ones."""
    key = name.encode("latin-1").lower()
    return [value.decode("latin-1") for header, value in scope["headers"] if header == key]
