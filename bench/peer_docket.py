"""docket as bench/peers.py loads it: `add` and `get_result`, with a worker process of its command line.

The worker has twice as many places as there are tasks at once: without a free place it pauses for its
interval (0.25 s) before it acknowledges tasks and reads new ones.
"""

# Runs in the environment of requirements/peers.txt, which the type checker does not see.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from pathlib import Path

from docket import Docket

from bench.peer_program import REDIS_VARIABLE, Load, loads

NAME = "peers"
PLACES = 100


async def nothing(q: int) -> None:
    del q


tasks = [nothing]


async def main() -> None:
    url = os.environ[REDIS_VARIABLE]
    async with Docket(name=NAME, url=url) as docket:
        with _worker(url) as worker:
            try:
                for load in loads():
                    await _tasks(docket, load)
            finally:
                worker.kill()


def _worker(url: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("docket")), "worker", "--docket", NAME, "--url", url]
    command += ["--tasks", "bench.peer_docket:tasks", "--concurrency", str(PLACES)]
    command += ["--logging-level", "ERROR"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def _tasks(docket: Docket, load: Load) -> None:
    left = itertools.count()

    async def one_after_another() -> None:
        while next(left) < load.runs:
            execution = await docket.add(nothing)(1)
            await execution.get_result()

    await asyncio.gather(*(one_after_another() for _ in range(load.at_once)))


if __name__ == "__main__":
    asyncio.run(main())
