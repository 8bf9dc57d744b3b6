"""A server as its users start it: `coordinator serve`, on loopback, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from coordinator.testing.servers import free_port

STARTED_WITHIN = 30.0
"""Seconds. Some interpreters start at once, on a machine that may be busy."""

PROGRAM = Path(sys.executable).with_name("coordinator")


@contextmanager
def served(*options: str, workers: int = 3, environment: Mapping[str, str] | None = None) -> Generator[str]:
    """The base URL of a server that answers, stopped at the end. Raises RuntimeError if it does not start."""
    port = free_port()
    command = [str(PROGRAM), "serve", "--port", str(port), "--workers", str(workers), *options]
    with started(command, f"http://127.0.0.1:{port}", "/ok", environment) as base:
        yield base


@contextmanager
def started(
    command: list[str], base: str, probe: str, environment: Mapping[str, str] | None = None
) -> Generator[str]:
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | (environment or {})
        )
        try:
            if not _answers(base + probe, process):
                log.seek(0)
                raise RuntimeError(f"the server did not start; it said:\n{log.read()}")
            yield base
        finally:
            process.terminate()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + STARTED_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - on loopback
            return True
        time.sleep(0.05)
    return False
