"""From the start of the process to its first finished durable run, and to the end of `--help`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Measure, at_most, median

_FIRST_RUN = """
import asyncio, sys
from coordinator import open_coordinator

async def agent(ctx):
    return {"done": True}

async def main():
    async with open_coordinator(sys.argv[1]) as manager:
        run = await manager.create_or_reject("thread", "agent")
        manager.launch(run, agent)
        print(await manager.wait(run.run_id), flush=True)

asyncio.run(main())
"""


async def run(rounds: int) -> list[Measure]:
    first = [await _first_run() for _ in range(2 * rounds + 1)]
    program = Path(sys.executable).with_name("coordinator")
    helped = [await _timed(str(program), "--help") for _ in range(2 * rounds + 1)]
    return [
        at_most(Measure("startup", "process start to first finished durable run", median(first), "s"), 0.9),
        at_most(Measure("startup", "coordinator --help", median(helped) * 1000, "ms"), 150),
    ]


async def _first_run() -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'runs.db'}"
        return await _timed(sys.executable, "-c", _FIRST_RUN, store, until_output=True)


async def _timed(*command: str, until_output: bool = False) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    if until_output and process.stdout is not None:
        await process.stdout.readline()
        took = time.perf_counter() - began
        await process.communicate()
    else:
        await process.communicate()
        took = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return took
