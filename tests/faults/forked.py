"""Worker processes by the forkserver, driven like those of `tests.support.processes`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from tests.faults import worker
from tests.support.processes import WorkerProcess

_LINE_LIMIT = 1 << 20


@cache
def forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    return context


class ForkedProcess:
    """A `tests.support.processes.Process`."""

    stderr = None

    def __init__(
        self, process: ForkServerProcess, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader
    ) -> None:
        self._process, self.stdin, self.stdout = process, stdin, stdout
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        loop.add_reader(process.sentinel, self._end)

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._process.join()
        self.stdin.close()
        if not self._ended.done():
            self._ended.set_result(self._process.exitcode or 0)

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)


async def fork(config: dict[str, Any]) -> WorkerProcess:
    """Returns when the worker has registered. Raises AssertionError where it does not within 20 s."""
    context = forkserver()
    theirs_in, ours_out = context.Pipe(duplex=False)
    ours_in, theirs_out = context.Pipe(duplex=False)
    process = context.Process(target=worker.run, args=(config, theirs_in, theirs_out), daemon=True)
    process.start()
    theirs_in.close()
    theirs_out.close()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    read_end, write_end = (
        os.fdopen(os.dup(end.fileno()), mode) for end, mode in ((ours_in, "rb"), (ours_out, "wb"))
    )
    ours_in.close()
    ours_out.close()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), read_end)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, write_end)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    driven = WorkerProcess(ForkedProcess(process, writer, reader))
    await driven.wait_for("ready", timeout=20)
    return driven
