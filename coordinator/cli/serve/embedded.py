"""The embedded Redis-compatible server of `serve` and `dev`, used if no Redis is given."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from coordinator.servers.process import ServerError, die_with_parent
from coordinator.servers.valkey import find_binary

logger = logging.getLogger("coordinator.serve")

_START_TIMEOUT = 10.0  # s
_RESTART_DELAY = 1.0  # s
_MAX_SOCKET_PATH = 100  # bytes; the kernel accepts 108, on macOS 104


class EmbeddedRedis:
    """Listens on a Unix socket in the data folder, not on a port: other users of the machine cannot connect.

    Its data is not persisted. While it is down, workers continue in store-only mode (law 1).
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "redis.sock"
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            path = Path(tempfile.mkdtemp(prefix="coordinator-")) / "redis.sock"
        self._socket, self._log = path, folder / "redis.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    async def start(self) -> bool:
        """Returns False if no server binary is installed or it does not start. A running server of another
        `serve` in this data folder is shared."""
        if await self._answers():
            return True
        try:
            await self._spawn(find_binary())
        except ServerError:
            return False
        return True

    async def keep(self) -> None:
        """Restart the server whenever it exits."""
        while self._process is not None:
            await self._process.wait()
            logger.error(
                "the embedded Redis exited and is restarted; runs continue, cancels take longer meanwhile"
            )
            await asyncio.sleep(_RESTART_DELAY)
            with suppress(ServerError):
                await self._spawn(find_binary())

    async def aclose(self) -> None:
        """Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self._socket.unlink(missing_ok=True)

    async def _spawn(self, binary: str) -> None:
        """Raises ServerError."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary,
                *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                *("--save", "", "--appendonly", "no", "--dir", str(self._log.parent)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT):
                while self._process.returncode is None:
                    if await self._answers():
                        return
                    await asyncio.sleep(0.005)
        raise ServerError(f"{binary} does not answer: {self._log.read_text(errors='replace')[-500:]}")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            async with asyncio.timeout(1.0):
                return await reader.readline() == b"+PONG\r\n"
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
