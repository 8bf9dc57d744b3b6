"""Server-sent events, as the bytes have them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx


class Sent(NamedTuple):
    event: str
    data: Any
    id: str | None


def parsed(block: bytes) -> Sent | None:
    """One event; None = a comment."""
    lines = block.split(b"\r\n")
    if all(line.startswith(b":") for line in lines):
        return None
    fields = dict(line.split(b": ", 1) for line in lines)
    assert list(fields) in ([b"event", b"data"], [b"event", b"data", b"id"]), block
    event_id = fields.get(b"id")
    numbered = None if event_id is None else event_id.decode()
    return Sent(fields[b"event"].decode(), json.loads(fields[b"data"]), numbered)


async def events(response: httpx.Response) -> AsyncIterator[Sent]:
    """What comes, as it comes; comments are left out."""
    rest = b""
    async for chunk in response.aiter_raw():
        *blocks, rest = (rest + chunk).split(b"\r\n\r\n")
        for block in blocks:
            if (sent := parsed(block)) is not None:
                yield sent
    assert rest == b"", rest


async def all_events(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> list[Sent]:
    async with client.stream(method, path, **options) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [sent async for sent in events(response)]
