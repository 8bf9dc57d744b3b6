"""Answers that are worth their work only while their client waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import HTTPException, Request

from stores.tasks import begin_soon

T = TypeVar("T")

_CLIENT_GONE = 499
"""As proxies write it into their logs. Nobody gets it."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to. It is cancelled where the client goes away first: HTTPException. The body of
    the request has been read."""
    working = begin_soon(work)
    gone = begin_soon(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(_CLIENT_GONE, "the client has gone")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
