"""Worker processes of the benchmarks, as seen by their driver."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self._one_at_a_time = asyncio.Lock()

    async def call(self, do: str, **command: Any) -> Any:
        if self._process.stdin is None:
            raise RuntimeError("the worker has no standard input")
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"do": do, **command}).encode() + b"\n")
            return (await self.answer())["answer"]

    async def answer(self) -> dict[str, Any]:
        if self._process.stdout is None:
            raise RuntimeError("the worker has no standard output")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker process of the benchmark died; its error is above")
        return json.loads(line)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def workers(
    count: int, store: str, redis: str | None, *, program: str = "bench.worker"
) -> AsyncGenerator[list[WorkerProcess]]:
    """`count` worker processes on one store, ready; killed at the end."""
    started: list[WorkerProcess] = []
    try:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                program,
                store,
                *([redis] if redis else []),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            started.append(WorkerProcess(process))
            await started[-1].answer()
        yield started
    finally:
        for worker in started:
            await worker.end()
