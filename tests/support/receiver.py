"""A receiver of webhooks on a real socket: keeps each request byte for byte, answers as a test chooses."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

CERTIFICATES = Path(__file__).parents[1] / "webhooks" / "certificates"
"""A certificate for hooks.example.com that signs itself."""


@dataclass(frozen=True, slots=True)
class Received:
    line: str
    headers: dict[str, str]
    body: bytes
    server_name: str | None

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.body)


Answer: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *, headers: str = "", content: bytes = b"ok") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {code} Reason\r\ncontent-length: {len(content)}\r\n{headers}\r\n"
        writer.write(head.encode() + content)
        await writer.drain()

    return answer


class Receiver:
    """`answers`: one for each request; the last one also answers all later requests."""

    def __init__(self, *answers: Answer | int) -> None:
        self.answers = [status(answer) if isinstance(answer, int) else answer for answer in answers or (200,)]
        self.received: list[Received] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()
        self.port = 0
        self._server_names: list[str | None] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / "receiver.pem", CERTIFICATES / "receiver.key")

        def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
            self._server_names.append(name)

        context.sni_callback = note
        return context

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            # Cancelled at the end of the block: a handler that ends so would be reported as a failure.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self.gone.set()
            writer.transport.abort()
            self._serving.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in head[1:] if line]
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        name = self._server_names[-1] if self._server_names else None
        self.received.append(Received(head[0], headers, body, name))
        self.arrived.set()
        await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(writer)
        writer.close()
        await writer.wait_closed()

    async def hang_up(self) -> None:
        while self._serving:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving)


@asynccontextmanager
async def receiving(*answers: Answer | int, tls: bool = False) -> AsyncGenerator[Receiver]:
    receiver = Receiver(*answers)
    server = await asyncio.start_server(
        receiver.serve, "127.0.0.1", 0, ssl=receiver.context() if tls else None
    )
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.hang_up()
