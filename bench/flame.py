"""`python -m bench.flame http|library|postgres`: a flame graph of a worker process under load, by py-spy.

py-spy starts the worker, because Linux allows a process to sample its children. Threads that py-spy takes for
idle are left out. The start of the worker is sampled as well: its frames are imports.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.databases import running_server
from bench.gateway import listens
from bench.http import connected
from bench.http_floors import ENV, SERVED, create_and_wait
from bench.throughput import by_launch, lives
from coordinator import open_coordinator
from coordinator.servers.process import free_port

LOADS = ("http", "library", "postgres")
AT_ONCE = 16
START = 2.0  # s, that the worker may take to start
SLICE = 200  # runs between two looks at the clock
_STORE = "COORDINATOR_BENCH_FLAME_STORE"
"""Set in the process that is sampled. Not an option, which the graph would show, with its password."""
_PROGRAM = str(Path(sys.executable).with_name("coordinator"))
_PY_SPY = str(Path(sys.executable).with_name("py-spy"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.flame", description=__doc__)
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--seconds", type=float, default=15, help="duration of the sampling (15)")
    parser.add_argument("--rate", type=int, default=200, help="samples per second (200)")
    parser.add_argument("--format", choices=("flamegraph", "speedscope", "raw"), default="flamegraph")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: build/flame/LOAD.svg or .json")
    options = parser.parse_args()
    if store := os.environ.get(_STORE):
        asyncio.run(_load_library(store, options.seconds))
        return 0
    suffix = {"flamegraph": "svg", "speedscope": "json", "raw": "txt"}[options.format]
    output: Path = options.output or Path("build/flame", f"{options.load}.{suffix}")
    output.parent.mkdir(parents=True, exist_ok=True)
    recorder = [
        _PY_SPY, "record", "--subprocesses", "--threads", "--duration", str(round(options.seconds + START)),
        "--rate", str(options.rate), "--format", options.format, "--output", str(output), "--",
    ]  # fmt: skip
    return asyncio.run(_record(options.load, options.seconds, recorder))


async def _record(load: str, seconds: float, recorder: list[str]) -> int:
    with ExitStack() as stack:
        store = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'runs.db'}"
        if load == "postgres":
            store = stack.enter_context(running_server())
        port = free_port()
        if load == "http":
            command = [_PROGRAM, "serve", "--port", str(port), "--store", store, "--redis", "", *SERVED]
        else:
            command = [sys.executable, "-m", "bench.flame", load, "--seconds", str(seconds + START)]
        log = stack.enter_context(tempfile.TemporaryFile())
        env = ENV if load == "http" else {**os.environ, _STORE: store}
        process = await asyncio.create_subprocess_exec(*recorder, *command, stdout=log, stderr=log, env=env)
        if load == "http":
            await _load_http(process, port)
        status = await process.wait()
        log.seek(0)
        print(log.read()[-2000:].decode(errors="replace") if status else f"see {recorder[-2]}")
        return status


async def _load_library(store: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    async with open_coordinator(store, grace=0) as manager:
        while time.monotonic() < ends:
            await lives(manager, by_launch, AT_ONCE, SLICE)


async def _load_http(process: asyncio.subprocess.Process, port: int) -> None:
    """Create and wait, on fresh threads, until the server is gone."""
    while process.returncode is None and not await listens(port):  # noqa: ASYNC110 - another process starts
        await asyncio.sleep(0.02)

    async def client() -> None:
        async with connected(port) as connection:
            while process.returncode is None:
                await create_and_wait(connection)

    ended = await asyncio.gather(*(client() for _ in range(AT_ONCE)), return_exceptions=True)
    del ended  # all by the end of the server


if __name__ == "__main__":
    sys.exit(main())
