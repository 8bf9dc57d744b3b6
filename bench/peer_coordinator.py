"""The coordinator as bench/peers.py loads it: create, launch and wait, on an SQLite file with Redis."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from bench.peer_program import REDIS_VARIABLE, loads
from bench.throughput import by_launch, lives
from coordinator import open_coordinator


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'runs.db'}"
        async with open_coordinator(url, redis=os.environ[REDIS_VARIABLE]) as manager:
            for load in loads():
                await lives(manager, by_launch, load.at_once, load.runs)


if __name__ == "__main__":
    asyncio.run(main())
