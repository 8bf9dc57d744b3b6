"""Cancels the work for a response when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import HTTPException, Request

from stores.tasks import begin_soon

T = TypeVar("T")

_CLIENT_GONE = 499
"""The status that proxies log for it. It is never sent."""


async def while_connected(request: Request, work: Coroutine[object, object, T]) -> T:
    """Returns the result of `work`. If the client disconnects first, cancels `work` and raises HTTPException
    (499). The body of the request must have been read."""
    working = begin_soon(work)
    disconnected = begin_soon(_await_disconnect(request))
    try:
        await asyncio.wait((working, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(_CLIENT_GONE, "the client has disconnected")
        return working.result()
    finally:
        working.cancel()
        disconnected.cancel()
        await asyncio.gather(working, disconnected, return_exceptions=True)


async def _await_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
