"""A resolver for tests, with names that do not resolve until they are released."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class SlowNames:
    """Names with `slow` in them answer when `released`; all others have `address`. Called from threads."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.released = threading.Event()
        self.queried: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.queried.append(host)
        if "slow" in host and not self.released.wait(60):
            raise OSError("timed out")
        return [self.address]


@contextmanager
def slow_names() -> Generator[SlowNames]:
    """Releases the threads that still wait at the end of the block."""
    names = SlowNames()
    try:
        yield names
    finally:
        names.released.set()
