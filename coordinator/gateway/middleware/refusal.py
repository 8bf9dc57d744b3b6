"""Saying no before a route is reached."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_POLICY_VIOLATION = 1008


async def refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that was not accepted is answered with 403 by the server, whatever the response says."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
    else:
        await response(scope, receive, send)


def values(scope: Scope, name: str) -> list[str]:
    """All values of a header: a second one is how two readers of a request come to disagree."""
    key = name.encode("latin-1").lower()
    return [value.decode("latin-1") for given, value in scope["headers"] if given == key]
