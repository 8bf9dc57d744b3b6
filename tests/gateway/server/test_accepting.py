"""Accepting connections without a free descriptor."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from coordinator.gateway.server import accepting
from coordinator.gateway.server.accepting import Acceptor


class Listener(socket.socket):
    """Has no descriptor for the first connection that it accepts."""

    failed = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def test_connections_are_accepted_again_when_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "RETRY_DELAY", 0.01)
    listener = Listener()
    listener.bind(("127.0.0.1", 0))
    acceptor = Acceptor(listener, Greeting)
    acceptor.start()
    try:
        async with asyncio.timeout(10):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                assert await reader.read() == b"hello"
                writer.close()
                await writer.wait_closed()
            await acceptor.wait_closed()
    finally:
        acceptor.close()
    assert "retry in 0.01 s" in caplog.text
