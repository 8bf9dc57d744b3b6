"""What all middleware costs a request, with a route that does nothing: processor time, not time.

In one process: once the app alone, once with the HTTP server around it, where the client is a process of its
own. Keys, a rate limit, metrics and the access log are on. The least of many batches, because the machine may
do other work at the same time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.report import Measure, median
from coordinator import RunManager, Settings
from coordinator.gateway import Gateway, GatewaySettings, create_gateway, key_file
from coordinator.gateway.caller import Role
from coordinator.gateway.server import logs
from coordinator.gateway.server.serving import Http, loop_factory

REQUESTS = 400
"""A batch."""

BATCHES = 10
"""A round."""

BODY = b'{"assistant_id":"agent","input":{"messages":[{"role":"user","content":"hello"}]}}'

CLIENT = """
import socket, sys
port, count, request = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
with socket.create_connection(("127.0.0.1", port)) as connection:
    for line in sys.stdin:
        for _ in range(count):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b'{"done":1}'):
                answer += connection.recv(65536)
        print("done", flush=True)
"""


async def run(rounds: int) -> list[Measure]:
    measured = await asyncio.to_thread(_measured, rounds)
    return [
        Measure("guards", f"{what}: {which}", value, "us of CPU a request")
        for what, batches in measured.items()
        for which, value in (("least", min(batches)), ("median", median(batches)))
    ]


def _measured(rounds: int) -> dict[str, list[float]]:
    with asyncio.Runner(loop_factory=loop_factory()) as runner, _no_log():
        return runner.run(_batches(rounds * BATCHES))


async def _batches(count: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        _, key = key_file.create(keys, role=Role.admin, user_id=None)
        settings = GatewaySettings(api_keys=keys, rate_limit=1e9)
        app = create_gateway(RunManager(settings=Settings(grace=0)), settings=settings)
        app.router.routes.insert(0, Route("/nothing", _nothing, methods=["POST"]))
        async with app.running(), _client(app, key) as client:
            times: dict[str, list[float]] = {"app": [], "app and HTTP": []}
            for number in range(count + 1):
                alone = await _called(app, key)
                served = await client()
                if number:  # the first one is not warm
                    times["app"].append(alone)
                    times["app and HTTP"].append(served)
            return times


async def _nothing(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({"done": 1})


@contextmanager
def _no_log() -> Generator[None]:
    """The log goes through all of its code, to nowhere."""
    before = sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        sys.stderr = nowhere
        try:
            logs.configure("text", logs.Who("worker 1"))
            yield
        finally:
            sys.stderr = before


def _headers(key: str) -> list[tuple[bytes, bytes]]:
    """Those of the JavaScript client of the SDK."""
    return [
        (b"host", b"127.0.0.1:2024"),
        (b"connection", b"keep-alive"),
        (b"content-type", b"application/json"),
        (b"x-api-key", key.encode()),
        (b"accept", b"*/*"),
        (b"accept-language", b"*"),
        (b"sec-fetch-mode", b"cors"),
        (b"user-agent", b"node"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"content-length", b"%d" % len(BODY)),
    ]


async def _called(app: Gateway, key: str) -> float:
    statuses: set[int] = set()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    before = time.process_time()
    for _ in range(REQUESTS):
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 2024),
            "client": ("127.0.0.1", 40_000),
            "scheme": "http",
            "root_path": "",
            "method": "POST",
            "path": "/nothing",
            "raw_path": b"/nothing",
            "query_string": b"",
            "headers": _headers(key),
            "state": {},
        }
        await app(scope, receive, send)
    spent = time.process_time() - before
    assert statuses == {200}, statuses
    return spent / REQUESTS * 1e6


@asynccontextmanager
async def _client(app: Gateway, key: str) -> AsyncGenerator[Any]:
    """A function that sends a batch over one connection, and returns what it cost this process."""
    port = socket.create_server(("127.0.0.1", 0))
    http = Http(app)
    serving = asyncio.ensure_future(http.serve(sockets=[port]))
    await http.listening.wait()
    head = b"".join(b"%s: %s\r\n" % pair for pair in _headers(key))
    request = b"POST /nothing HTTP/1.1\r\n" + head + b"\r\n" + BODY
    program = [sys.executable, "-c", CLIENT, str(port.getsockname()[1]), str(REQUESTS), request.hex()]
    client = await asyncio.to_thread(subprocess.Popen, program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    stdin, stdout = client.stdin, client.stdout

    async def batch() -> float:
        before = time.process_time()
        stdin.write(b"\n")
        stdin.flush()
        assert await asyncio.to_thread(stdout.readline) == b"done\n"
        return (time.process_time() - before) / REQUESTS * 1e6

    try:
        yield batch
    finally:
        stdin.close()
        await asyncio.to_thread(client.wait)
        stdout.close()
        http.finish()
        await serving
