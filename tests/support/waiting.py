"""Waiting for what happens, never for time to pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable


async def wait_until(
    predicate: Callable[[], object | Awaitable[object]], *, description: str, timeout: float = 20.0
) -> float:
    """How many seconds it took until `predicate` held. Fails with `description` after `timeout`."""
    began = time.monotonic()
    while True:
        holds = predicate()
        if isawaitable(holds):
            holds = await holds
        took = time.monotonic() - began
        if holds:
            return took
        assert took < timeout, f"not within {timeout} s: {description}"
        await asyncio.sleep(0.002)
