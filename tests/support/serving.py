"""A program that serves HTTP, in a folder of its own. For `coordinator serve`: `tests.support.served`."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

STARTED_WITHIN = 30.0
"""Seconds. Some interpreters start at once, on a machine that may be busy."""


@contextmanager
def started(
    command: list[str], base: str, probe: str, environment: Mapping[str, str] | None = None
) -> Generator[str]:
    """`base`, once it answers the probe; stopped at the end. Raises RuntimeError if it does not start."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | (environment or {}),
        )
        try:
            if not _answers(base + probe, process):
                log.seek(0)
                raise RuntimeError(f"the server did not start; its output:\n{log.read()}")
            yield base
        finally:
            process.terminate()
            if process.stdin is not None:  # whatever it has started itself may wait for that
                process.stdin.close()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + STARTED_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - on loopback
            return True
        time.sleep(0.02)
    return False
