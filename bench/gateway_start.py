"""From the start of `coordinator dev` and `serve` to healthy and to the first run; what they hold then.

As a client meets them: an unmodified `langgraph_sdk` that is loaded already and retries until it gets a
response. Memory is that of all processes that were started, after the first run. Targets are for an idle
machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from langgraph_sdk import get_client

from bench.report import Measure, at_most, median
from coordinator.servers.process import free_port

_ASSISTANTS = """
async def agent(ctx):
    return {"done": True}
"""
_DEV = ("dev", "--assistants", "mine:agent")
_SERVE = ("serve", "--workers", "3", "--assistants", "mine:agent")
_GIVES_UP = 60.0  # s
_MB = 1024


class _Start(NamedTuple):
    """Seconds from the start of the process, and MB."""

    healthy: float
    first_run: float
    rss: float
    pss: float


async def run(rounds: int) -> list[Measure]:
    developing = [await _start(*_DEV) for _ in range(rounds)]
    serving = [await _start(*_SERVE) for _ in range(rounds)]

    def measured(what: str, values: list[float], unit: str) -> Measure:
        return Measure("gateway_start", what, median(values), unit)

    return [
        at_most(measured("dev: start to healthy", [one.healthy for one in developing], "s"), 1.0),
        at_most(measured("dev: start to first run", [one.first_run for one in developing], "s"), 1.6),
        at_most(measured("dev: memory, RSS", [one.rss for one in developing], "MB"), 110),
        measured("dev: memory, PSS", [one.pss for one in developing], "MB"),
        measured("serve, 3 workers: start to healthy", [one.healthy for one in serving], "s"),
        measured("serve, 3 workers: start to first run", [one.first_run for one in serving], "s"),
        measured("serve, 3 workers: memory, RSS", [one.rss for one in serving], "MB"),
        measured("serve, 3 workers: memory, PSS", [one.pss for one in serving], "MB"),
    ]


async def _start(*command: str) -> _Start:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text(_ASSISTANTS)
        port = free_port()
        client: Any = get_client(url=f"http://127.0.0.1:{port}", api_key=None)
        async with client:
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("coordinator")),
                *(*command, "--port", str(port)),
                cwd=folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("COORDINATOR_")},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await answered(port)
                healthy = time.perf_counter() - began
                result = await client.runs.wait(None, "agent")
                first_run = time.perf_counter() - began
                assert result == {"done": True}, result
                await _all_up(process, 3 if command[0] == "serve" else 1)
                pids = [process.pid, *_descendants(process.pid)]
                rss = sum(_memory(pid, "Rss") for pid in pids)
                pss = sum(_memory(pid, "Pss") for pid in pids)
            finally:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await process.communicate()
        return _Start(healthy, first_run, rss, pss)


async def answered(port: int) -> None:
    """By a probe of its own few lines: what an HTTP client costs is not the server's."""
    until = time.perf_counter() + _GIVES_UP
    while time.perf_counter() < until:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ok HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return
        await asyncio.sleep(0.005)
    raise RuntimeError(f"no answer within {_GIVES_UP:g} s")


async def _all_up(process: asyncio.subprocess.Process, workers: int) -> None:
    listening = 0
    while listening < workers and process.stderr is not None:
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError("the server has ended")
        listening += b" listens, epoch " in line


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _descendants(int(child))


def _memory(pid: int, what: str) -> float:
    """MB."""
    match = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(match.group(1)) / _MB if match else 0.0
