"""Slow and idle connections that stay open as long as possible, in a separate process.

`python -m tests.hostile.crowd PORT KEY SIZE` runs until SIGTERM, then prints a report in JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field

EVERY = 5.0  # s between two bytes
AGAIN = 2.0  # s until a closed connection is opened again
LIVES = 80.0
"""Seconds that the server may keep one: 75, and what a machine that is busy adds."""

_H = b"Host: localhost\r\n"


def _openings(api_key: str) -> dict[str, tuple[bytes, bytes]]:
    """What each kind of connection sends first, and then repeatedly."""
    key = b"X-Api-Key: " + api_key.encode() + b"\r\n"
    long, coded = b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
    post = b"POST /threads/count HTTP/1.1\r\n" + _H
    get = b"GET /ok HTTP/1.1\r\n" + _H
    return {
        "mute": (b"", b""),
        "line by drops": (b"GET /o", b"o"),
        "headers by drops": (get, b"a: b\r\n"),
        "body by drops, without a key": (post + long, b"x"),
        "chunks by drops, without a key": (post + coded, b"1\r\nx\r\n"),
        "body by drops of a public route": (get + long, b"x"),
        "body by drops": (post + key + b"Content-Type: application/json\r\n" + long, b" "),
        "body that never comes": (post + key + long, b""),
        "answered, then idle": (get + b"\r\n", b""),
        "answered, then blank lines": (get + b"\r\n", b"\r\n"),
        "trailers by drops": (get + coded + b"0\r\n", b"a: b\r\n"),
    }


@dataclass
class Report:
    closed: dict[str, int] = field(default_factory=dict[str, int])
    """How many of each kind the server has closed."""
    longest: dict[str, float] = field(default_factory=dict[str, float])
    failures: list[str] = field(default_factory=list[str])


class Crowd:
    """`size` connections, each reopened when the server has closed it."""

    def __init__(self, port: int, api_key: str, size: int) -> None:
        self._port, self._size = port, size
        self._openings = list(_openings(api_key).items())
        self._closed: Counter[str] = Counter()
        self._longest: dict[str, float] = {}
        self._failures: list[str] = []

    async def until(self, over: asyncio.Event) -> Report:
        tasks = [asyncio.create_task(self._one(number)) for number in range(self._size)]
        await over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return Report(dict(self._closed), self._longest, self._failures)

    async def _one(self, number: int) -> None:
        kind, (first, more) = self._openings[number % len(self._openings)]
        await asyncio.sleep(number * 0.002)
        while True:
            with suppress(OSError):
                await self._live(kind, first, more)
            await asyncio.sleep(AGAIN)

    async def _live(self, kind: str, first: bytes, more: bytes) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        began = loop.time()
        reading = asyncio.create_task(_drain(reader))
        try:
            writer.write(first)
            while not (await asyncio.wait((reading,), timeout=EVERY))[0]:
                if more and loop.time() - began < LIVES:
                    writer.write(more)
                elif loop.time() - began > LIVES + 10:
                    break
        finally:
            reading.cancel()
            writer.transport.abort()
        lived = loop.time() - began
        self._closed[kind] += 1
        self._longest[kind] = max(lived, self._longest.get(kind, 0.0))
        if lived > LIVES:
            self._failures.append(f"{kind}: open for {lived:.0f} s")


@asynccontextmanager
async def crowd(port: int, api_key: str, size: int) -> AsyncGenerator[Report]:
    """`size` slow connections; the report is complete at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.hostile.crowd",
        str(port),
        api_key,
        str(size),
        stdout=asyncio.subprocess.PIPE,
    )
    report = Report()
    try:
        yield report
        process.send_signal(signal.SIGTERM)
        received = Report(**json.loads((await process.communicate())[0]))
        report.closed, report.longest, report.failures = received.closed, received.longest, received.failures
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def main(port: int, api_key: str, size: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    report = await Crowd(port, api_key, size).until(over)
    sys.stdout.write(json.dumps(asdict(report)))


async def _drain(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(65_536):
            """Of no interest."""


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
