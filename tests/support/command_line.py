"""The command line as its users meet it: exit codes, stdout, stderr; and a worker for it to look at."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from coordinator import RunContext, RunManager, RunRecord, open_coordinator
from tests.support.forked import COMMAND_LINE, ROOT, ForkedProcess, fork
from tests.support.waiting import wait_until

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
VICTIM = COMMAND_LINE._replace(target="tests.support.victim:main", path=str(ROOT))
MAIN = "import sys; from coordinator.cli import main; sys.exit(main())"
EVIL = "\x1b[31mred\x1b[0m [bold]b[/bold] :smile: \u202eover\r\nnext\x9b1m"


class Answer(NamedTuple):
    code: int | None
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.err)["error"]


def _environment(env: dict[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    return clean | (env or {})


async def interpreter(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    """By an interpreter of its own, as a shell starts it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=_environment(env),
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    return Answer(process.returncode, out.decode(), err.decode())


async def cli(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    """By a process of its own, which is forked with its imports behind it."""
    process = await fork(COMMAND_LINE, *args, cwd=cwd, env=_environment(env))
    async with asyncio.timeout(50):
        out, err = await process.communicate()
    return Answer(process.returncode, out.decode(), err.decode())


async def on_a_terminal(*args: str, env: dict[str, str], typed: str = "", columns: int = 80) -> Answer:
    """By an interpreter whose input and output are a terminal; `out` is all that the terminal shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, *args),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environment({"TERM": "xterm", **env}),
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = await asyncio.to_thread(_all_of, ours)
    os.close(ours)
    return Answer(await asyncio.wait_for(process.wait(), 50), shown.decode(), "")


def _all_of(terminal: int) -> bytes:
    output = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # its other end is closed
            return output
        if not part:
            return output
        output += part


@asynccontextmanager
async def victim(url: str, **environment: str) -> AsyncGenerator[tuple[ForkedProcess, str]]:
    """Another process with one run."""
    process = await fork(VICTIM, url, env=os.environ | environment)
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def quick(ctx: RunContext) -> None:
    await ctx.save({"text": [EVIL], "long": list(range(100))})


async def slow(ctx: RunContext) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        raise


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


class Busy(NamedTuple):
    """A live worker: one run done, one running and two waiting behind it on `thread`."""

    url: str
    path: Path
    manager: RunManager
    thread: str
    done: RunRecord
    running: RunRecord
    waiting: tuple[RunRecord, RunRecord]

    async def cli(self, *args: str) -> Answer:
        return await cli(*args, env={"COORDINATOR_STORE": self.url})

    async def workers(self) -> int:
        return len(await self.manager.worker.fleet(alive_only=False))


@asynccontextmanager
async def busy_worker(path: Path, **settings: Any) -> AsyncGenerator[Busy]:
    url = f"sqlite:///{path}"
    async with open_coordinator(url, grace=0, **settings) as manager:
        done = await manager.create_or_reject("t1", "agent", kwargs={"q": EVIL}, metadata={"m": EVIL})
        manager.launch(done, quick)
        await manager.wait(done.run_id, timeout=20)
        running = await manager.create_or_reject("t1", "agent", kwargs={"secret": 1})
        manager.launch(running, slow)
        waiting = [await manager.create_or_reject("t1", multitask_strategy="enqueue") for _ in range(2)]
        for run in waiting:
            manager.launch(run, quick)
        await wait_until(lambda: running.status == "running", description="the run runs")
        yield Busy(url, path, manager, "t1", done, running, (waiting[0], waiting[1]))
