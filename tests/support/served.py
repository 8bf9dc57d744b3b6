"""A real `coordinator serve` or `coordinator dev`, as its operator sees it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_MAIN = "import sys; from coordinator.cli import main; sys.exit(main())"
_LISTENS = re.compile(r"worker (\d+) \(pid (\d+)\) listens, epoch (\d+)")
UP_WITHIN = 40.0  # s; three workers on a machine that is busy with other tests


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of this process without the settings of the coordinator."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COORDINATOR_") or name.startswith("COORDINATOR_TEST_")
    }
    return kept | variables


class Served:
    """A server process. `lines` is its output so far, on both streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self._reading = asyncio.gather(self._read(process.stdout), self._read(process.stderr))
        self.url = ""

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (line := await stream.readline()):
            self.lines.append(line.decode().rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def wait_for_line(
        self, pattern: str, *, times: int = 1, within: float = UP_WITHIN
    ) -> re.Match[str]:
        """Waits until `times` lines match `pattern`, and returns the match of the last one."""

        def matches() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        until = time.monotonic() + within
        while len(matches()) < times:
            assert not self._reading.done(), f"the server ended without {pattern!r} x{times}:\n{self.output}"
            assert time.monotonic() < until, f"not within {within} s: {pattern!r} x{times}:\n{self.output}"
            await asyncio.sleep(0.005)
        return matches()[-1]

    async def up(self) -> str:
        """Waits until the server listens, and returns its URL."""
        self.url = (await self.wait_for_line(r"on (http://\S+:\d+)$")).group(1)
        return self.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def workers(self) -> dict[int, int]:
        """The latest process id of each slot."""
        return {int(one.group(1)): int(one.group(2)) for line in self.lines if (one := _LISTENS.search(line))}

    @property
    def epochs(self) -> dict[int, int]:
        return {int(one.group(1)): int(one.group(3)) for line in self.lines if (one := _LISTENS.search(line))}

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def gone(self, within: float = UP_WITHIN) -> tuple[float, int]:
        """Waits until the process has ended; returns how long that took (s), and the exit status."""
        began = time.monotonic()
        async with asyncio.timeout(within):
            status = await self._process.wait()
            await self._reading
        return time.monotonic() - began, status

    async def aclose(self) -> None:
        """Kills the server and its workers."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        for pid in self.workers.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._reading


@asynccontextmanager
async def served(
    command: str,
    *arguments: str,
    folder: Path,
    port: int = 0,
    descriptors: tuple[int, int] | None = None,
    **variables: str,
) -> AsyncGenerator[Served]:
    """The command, see `running_python`."""
    words = (command, "--port", str(port), *arguments)
    async with running_python(_MAIN, *words, folder=folder, descriptors=descriptors, **variables) as one:
        yield one


@asynccontextmanager
async def running_python(
    program: str,
    *arguments: str,
    folder: Path,
    descriptors: tuple[int, int] | None = None,
    **variables: str,
) -> AsyncGenerator[Served]:
    """A server that `program` is; started in `folder`, and killed at the end, if it is still there.
    `descriptors`: its soft and hard limit."""
    process = await asyncio.create_subprocess_exec(
        *(() if descriptors is None else _limiting(*descriptors)),
        sys.executable,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=environment(**variables),
        start_new_session=True,
    )
    one = Served(process)
    try:
        yield one
    finally:
        await one.aclose()


def _limiting(soft: int, hard: int) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")


def connections_of(pids: list[int], port: int) -> Counter[int]:
    """Returns how many connections to `port` each of the processes has accepted, from /proc."""
    table = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {row[9] for row in table if row[3] == "01" and int(row[1].partition(":")[2], 16) == port}
    counted: Counter[int] = Counter(dict.fromkeys(pids, 0))
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if descriptor.readlink().name.removeprefix("socket:[").removesuffix("]") in inodes:
                    counted[pid] += 1
    return counted


def alive(pid: int) -> bool:
    """Returns True if the process runs or is stopped, False if it has ended or is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
