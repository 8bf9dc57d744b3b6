"""The work of a run: publishes tokens, and returns why it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def agent(request: dict[str, Any], publish: Callable[[str, Any], Awaitable[None]]) -> str:
    """Returns the stop reason."""
    if request.get("fails"):
        raise ValueError("the model is away")
    for number in range(request.get("tokens", 3)):
        await publish("token", {"n": number})
        await asyncio.sleep(request.get("pause", 0.01))
    return "end_turn"
