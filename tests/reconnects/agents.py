"""What the workers of the campaign execute."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator import RunContext, assistant

EVENTS = 40
PAUSE = 0.01  # s


@assistant(name="ticker", retries=5)
async def ticker(ctx: RunContext) -> dict[str, Any]:
    """Emits numbers. A further attempt emits them again."""
    for number in range(EVENTS):
        await ctx.emit("custom", {"attempt": ctx.attempt, "number": number})
        await asyncio.sleep(PAUSE)
    return {"done": True}


AGENTS = {"ticker": ticker}
