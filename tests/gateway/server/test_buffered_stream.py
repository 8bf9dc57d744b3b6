"""The log's lines leave the process in order and complete, and no reader of stderr blocks the process."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from coordinator.gateway.server.buffered_stream import MAX_BYTES, BufferedStream
from coordinator.servers.process import free_port
from tests.support.served import environment, served

LINE = "x" * 99


class Pipe:
    """A pipe of one line per write and read, up to 4 KiB, with a log that writes to it."""

    def __init__(self) -> None:
        self._reading, descriptor = os.pipe2(os.O_DIRECT)
        self.stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self.handler = BufferedStream(self.stream)
        self.log = logging.Logger("of a test")  # noqa: LOG001 - no other test has it
        self.log.addHandler(self.handler)

    def write_of_now(self) -> str:
        """Returns what one write has written by now."""
        return self._read() if select.select([self._reading], [], [], 0)[0] else ""

    def until(self, end: str) -> str:
        text = ""
        while not text.endswith(end):
            text += self._read()
        return text

    def _read(self) -> str:
        return os.read(self._reading, 1 << 16).decode()

    def read_no_more(self) -> None:
        with suppress(OSError):
            os.close(self._reading)

    def close(self) -> None:
        self.read_no_more()
        self.handler.flush()  # its thread has no more lines for a descriptor of this number
        self.stream.close()


@pytest.fixture
def pipe() -> Generator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


async def test_reader_that_does_not_read_does_not_block_the_event_loop(pipe: Pipe) -> None:
    """Each kind of line, up to the bound of memory and beyond it."""

    def log() -> None:
        for number in range(3 * MAX_BYTES // 100):
            pipe.log.log(logging.ERROR if number % 1000 == 0 else logging.INFO, LINE)
        pipe.log.error("%s", "long" * 4096)

    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(log)
    finally:
        pipe.read_no_more()  # ends a thread that is blocked


def test_lines_beyond_the_bound_are_dropped_and_counted_and_the_others_are_in_order(pipe: Pipe) -> None:
    for number in range(3 * MAX_BYTES // 100):
        pipe.log.info("%s %d", LINE, number)
    text = pipe.until("because stderr was not read\n")
    *lines, report = text.splitlines()
    numbers = [int(line.removeprefix(LINE)) for line in lines]
    assert numbers == list(range(len(numbers)))
    dropped = re.search(r"(\d+) log lines were dropped", report)
    assert dropped is not None
    assert len(lines) + int(dropped.group(1)) == 3 * MAX_BYTES // 100
    assert MAX_BYTES <= len("".join(lines)) + len(lines) <= MAX_BYTES + (1 << 18), "the bound and the pipe"
    pipe.log.info("further")
    assert pipe.until("\n") == "further\n"


def test_line_that_is_longer_than_the_bound_is_written(pipe: Pipe) -> None:
    pipe.log.info("x" * MAX_BYTES * 2)
    assert len(pipe.until("\n")) == MAX_BYTES * 2 + 1


def test_error_is_written_at_once_with_the_lines_before_it(pipe: Pipe) -> None:
    pipe.log.info("one")
    pipe.log.error("two")
    assert pipe.write_of_now() == "one\ntwo\n"


def test_other_lines_are_written_together_and_pieces_end_with_a_line(pipe: Pipe) -> None:
    for number in range(100):
        pipe.log.info("%s %d", LINE, number)
    pipe.handler.flush()
    pieces = list(iter(pipe.write_of_now, ""))
    assert len(pieces) <= 4
    assert all(len(piece) <= 4096 and piece.endswith("\n") for piece in pieces)
    assert "".join(pieces) == "".join(f"{LINE} {number}\n" for number in range(100))


def test_lines_are_written_without_a_further_one(pipe: Pipe) -> None:
    pipe.log.info("one")
    assert pipe.until("\n") == "one\n"


def test_reader_that_has_ended_fails_no_caller(pipe: Pipe) -> None:
    pipe.read_no_more()
    for _ in range(3):
        pipe.log.error(LINE)
        pipe.log.info(LINE)
        pipe.handler.flush()


def test_after_close_lines_are_written_at_once(pipe: Pipe) -> None:
    pipe.handler.close()
    pipe.log.info("late")
    assert pipe.write_of_now() == "late\n"
    pipe.log.info("x" * 10_000)
    assert "".join(iter(pipe.write_of_now, "")) == "x" * 10_000 + "\n", "longer than one write"


# -- ends of a process

BEGINNING = """
import logging, os, signal, sys
from coordinator.gateway.server import logs
logs.configure("text", logs.Who("worker 1"))
log = logging.getLogger("coordinator.x")
for number in range(50):
    log.info("line %d.", number)
"""

ENDS = {
    "ordinary": "",
    "exit": "sys.exit(0)",
    "exception": "raise ValueError('unhandled')",
    "SIGTERM": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); os.kill(os.getpid(), signal.SIGTERM)",
    "exit handler": "import atexit; atexit.register(log.info, 'line 50.')",
    "fork": "pid = os.fork()\nif pid == 0:\n    log.info('line 50.'); os._exit(0)\nos.waitpid(pid, 0)",
    "other output": "logs.flush(); print('line 50.', file=sys.stderr)",
    "thread": "import threading; threading.Thread(target=log.info, args=('line 50.',)).start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_each_line_is_written_once_whatever_ends_the_process(end: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BEGINNING + ENDS[end]],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    lines = 51 if "line 50" in ENDS[end] else 50
    numbers = [int(number) for number in re.findall(r"line (\d+)\.$", ended.stderr, re.MULTILINE)]
    if end in ("fork", "thread"):  # these are not ordered with the lines of the process
        numbers.sort()
    assert numbers == list(range(lines))


def test_process_ends_though_its_lines_are_not_read() -> None:
    reading, writing = os.pipe()
    try:
        more = "for number in range(3000): log.info('%d %s', number, 'x' * 100)"
        subprocess.run([sys.executable, "-c", BEGINNING + more], stderr=writing, timeout=60, check=True)
    finally:
        os.close(reading)
        os.close(writing)


# -- a server


SERVER = """
import sys
from coordinator import RunManager, Settings
from coordinator.gateway import create_gateway, serve
serve(create_gateway(RunManager(settings=Settings(grace=0))), port=int(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_server_answers_and_ends_though_its_log_is_not_read(tmp_path: Path) -> None:
    port, (reading, writing) = free_port(), os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    program = (sys.executable, "-c", SERVER, str(port))
    process = await asyncio.create_subprocess_exec(*program, stderr=writing, cwd=tmp_path, env=environment())
    transport = httpx.AsyncHTTPTransport(retries=8)  # until it listens
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
            for number in range(200):
                assert (await client.get(f"/nowhere-{number}")).status_code == 404
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        os.close(reading)
        os.close(writing)
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("setting", "logged"), [("on", 1), ("off", 0)])
async def test_access_log_is_complete_at_the_end_or_turned_off(
    setting: str, logged: int, tmp_path: Path
) -> None:
    arguments = ("serve", "--store", "memory://", "--grace", "0")
    async with served(*arguments, folder=tmp_path, COORDINATOR_ACCESS_LOG=setting) as server:
        async with httpx.AsyncClient(base_url=await server.up()) as client:
            for number in range(100):
                await client.get(f"/ok?{number}")
            await client.get("/nowhere")
        server.send(signal.SIGTERM)
        await server.gone()
    lines = [line for line in server.lines if "coordinator.gateway.access" in line]
    assert len(lines) == 101 * logged
    assert all("path=/nowhere" in line for line in lines[100:])
