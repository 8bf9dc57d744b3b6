"""The least that speaks HTTP/1.1 over a kept connection: next to nothing beside what a server costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any


class Connection:
    """One request at a time, with `headers` in each. Raises RuntimeError for an answer that is no success."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Mapping[str, str]
    ) -> None:
        self._reader, self._writer, self._headers = reader, writer, headers

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None where it has no body."""
        headers = await self._send(method, path, body)
        if "content-length" in headers:
            text = await self._reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            text = b"".join([chunk async for chunk in self._chunks()])
        else:  # 204
            return None
        return json.loads(text) if text.strip() else None

    async def lines(self, path: str, **headers: str) -> AsyncGenerator[str]:
        """The lines of a streamed answer, as they come."""
        await self._send("GET", path, None, headers)
        rest = b""
        async for chunk in self._chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r").decode()

    async def _send(
        self, method: str, path: str, body: Any, more: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(text)}\r\n"
        if text:
            head += "Content-Type: application/json\r\n"
        fields = {**self._headers, **(more or {})}
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"{head}\r\n".encode() + text)
        status, *answered = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in answered)
        }
        if status.split(" ")[1][0] != "2":
            raise RuntimeError(f"{method} {path}: {status}")
        return headers

    async def _chunks(self) -> AsyncGenerator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


@asynccontextmanager
async def connected(port: int, **headers: str) -> AsyncGenerator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        yield Connection(reader, writer, headers)
    finally:
        writer.close()
