"""Calls of a foreign storage, whose code may hang or ignore its cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from stores.tasks import begin_soon

T = TypeVar("T")


async def bounded(call: Coroutine[object, object, T], within: float, what: str) -> T:
    """Waits at most `within` s, without waiting for a call that ignores its cancel. Raises TimeoutError, and
    RuntimeError for a call that ends as cancelled although nothing has cancelled it."""
    work = begin_soon(call)
    try:
        await asyncio.wait((work,), timeout=within)
    finally:
        if not work.done():
            work.cancel()
            work.add_done_callback(_retrieve_exception)
    if not work.done():
        raise TimeoutError(f"{what} took longer than {within:g} s")
    if work.cancelled():
        raise RuntimeError(f"{what} has cancelled itself")
    return work.result()


def _retrieve_exception(work: asyncio.Task[object]) -> None:
    """Retrieve the exception, so that asyncio does not log "exception was never retrieved"."""
    if not work.cancelled():
        work.exception()
