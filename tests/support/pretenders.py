"""Small servers that pretend to be a sentinel, and Redis behind TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from coordinator.servers.valkey import ValkeyServer


def named(host: str, port: int) -> bytes:
    """A sentinel's answer."""
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n" % (len(host), host.encode(), len(str(port)), port)


class PretendedSentinel:
    """Answers every command with OK and the question for the master with what `answer` returns; None =
    never."""

    def __init__(self, answer: Callable[[], bytes | None]) -> None:
        self.answer = answer
        self.open_writers: set[asyncio.StreamWriter] = set()
        self.questions = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_writers.add(writer)
        try:
            while data := await reader.read(65536):
                if b"GET-MASTER-ADDR-BY-NAME" in data:
                    self.questions += 1
                    if (line := self.answer()) is not None:
                        writer.write(line)
                else:
                    writer.write(b"+OK\r\n" * data.count(b"*"))
        except OSError:
            pass
        finally:
            self.open_writers.discard(writer)
            writer.transport.abort()


@asynccontextmanager
async def sentinels(*answers: Callable[[], bytes | None]) -> AsyncGenerator[list[PretendedSentinel]]:
    """One for each of `answers`, on loopback."""
    made = [PretendedSentinel(answer) for answer in answers]
    servers: list[asyncio.Server] = []
    for one in made:
        server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
        one.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield made
    finally:
        for server in servers:
            server.close()
        for one in made:
            for writer in list(one.open_writers):
                writer.transport.abort()
        for server in servers:
            await server.wait_closed()


def sentinel_url(*made: PretendedSentinel) -> str:
    hosts = ",".join(f"127.0.0.1:{one.port}" for one in made)
    return f"redis+sentinel://{hosts}/service/0"


class Certificate(NamedTuple):
    certificate: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Self-signed, for localhost."""
    made = Certificate(folder / "server.crt", folder / "server.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    command += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(made.key),
        "-out",
        str(made.certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return made


@asynccontextmanager
async def tls_before(server: ValkeyServer, proof: Certificate) -> AsyncGenerator[int]:
    """The port of a TLS terminator in front of `server`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(proof.certificate, proof.key)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        except OSError:
            pass
        finally:
            target.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(server.host, server.port)
        for pair in ((reader, upstream_writer), (upstream_reader, writer)):
            tasks.add(asyncio.create_task(pump(*pair)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()
