"""Responses of unknown length to clients of HTTP/1.0, which know no chunks: the connection ends with them."""

from __future__ import annotations

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def end_with_connection(cycle: RequestResponseCycle) -> None:
    """Must be called before the app sends. Without this, uvicorn sends chunks if a length is missing."""
    send, delimited = cycle.send, False

    async def send_unchunked(message: Message) -> None:
        nonlocal delimited
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if delimited := b"content-length" not in names:
                cycle.chunked_encoding = cycle.keep_alive = False
        elif delimited:
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn compares the two
        await send(message)  # pyright: ignore[reportArgumentType] - the same messages in other types

    cycle.send = send_unchunked  # type: ignore[method-assign, assignment]
