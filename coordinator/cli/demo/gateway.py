"""The demo's side of a `coordinator serve`: started as a user starts it, ended by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from coordinator.cli.demo.process import is_setting
from coordinator.cli.demo.stage import Stage
from coordinator.cli.failures import CommandFailed

_ENDS_WITHIN = 10.0  # s


@dataclass(slots=True)
class Gateway:
    url: str
    left: float = 0.0
    """Seconds from SIGTERM to the end of its processes; known when it has ended, as is..."""
    status: int | None = None


@asynccontextmanager
async def serving(stage: Stage, workers: int) -> AsyncGenerator[Gateway]:
    """On a store of its own, beside the other workers of the stage. Raises CommandFailed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", "serve"),
        *("--port", "0", "--workers", str(workers), "--grace", "0", "--log-format", "json"),
        *("--redis", stage.redis),
        *("--namespace", f"demo-gateway-{os.getpid()}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(stage.store("gateway")),
        start_new_session=True,  # Ctrl-C is for the demo, which then ends it
    )
    reading: asyncio.Task[None] | None = None
    try:
        gateway = Gateway(await _address(process))
        reading = asyncio.create_task(_read_on(process))
        yield gateway
        began = time.monotonic()
        process.terminate()
        async with asyncio.timeout(_ENDS_WITHIN):
            gateway.status = await process.wait()
        gateway.left = time.monotonic() - began
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # its workers notice
        await process.wait()
        if reading is not None:
            await reading


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    """Not on the command line: everybody sees that, and a store's URL may hold a password."""
    clean = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return clean | {f"COORDINATOR_{name.upper()}": str(value) for name, value in settings.items()}


async def _address(process: asyncio.subprocess.Process) -> str:
    line = b""
    while process.stderr is not None and (next_line := await process.stderr.readline()):
        line = next_line
        with suppress(ValueError):
            if "url" in (said := json.loads(line)):
                return str(said["url"])
    raise CommandFailed("NoGateway", f"the gateway has ended: {line.decode(errors='replace').strip()}")


async def _read_on(process: asyncio.subprocess.Process) -> None:
    """A pipe that nobody reads would stop it."""
    while process.stderr is not None and await process.stderr.read(65536):
        """Its log is of no use any more."""
