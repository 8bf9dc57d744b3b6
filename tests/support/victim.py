"""A worker with one run, for a test to kill or pause. Its argument is the URL of the store."""

from __future__ import annotations

import asyncio
import sys

from coordinator import RunContext, open_coordinator


def main() -> None:
    asyncio.run(_serve(sys.argv[1]))


async def _serve(url: str) -> None:
    async with open_coordinator(url) as manager:
        run = await manager.create_or_reject("victim")
        manager.launch(run, _slow)
        while run.status != "running":  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.01)
        print(run.run_id, flush=True)  # noqa: T201 - to the test
        await asyncio.Event().wait()


async def _slow(ctx: RunContext) -> None:
    await asyncio.Event().wait()
