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


MOMENT = 0.02
"""Seconds of work without a watch for the disconnect, which costs more than most work."""


async def while_connected(request: Request, work: Coroutine[object, object, T]) -> T:
    """Returns the result of `work`. If the client disconnects first, cancels `work` and raises HTTPException
    (499), at the earliest after `MOMENT`. The body of the request must have been read."""
    working = begin_soon(work)
    try:
        if (await asyncio.wait((working,), timeout=MOMENT))[0] or await _ends_first(working, request):
            return working.result()
        raise HTTPException(_CLIENT_GONE, "the client has disconnected")
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))


async def _ends_first(working: asyncio.Task[object], request: Request) -> bool:
    """Returns when `working` has ended, or False when the client has disconnected."""
    disconnected = begin_soon(_await_disconnect(request))
    try:
        await asyncio.wait((working, disconnected), return_when=asyncio.FIRST_COMPLETED)
        return working.done()
    finally:
        disconnected.cancel()
        await asyncio.wait((disconnected,))


async def _await_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
