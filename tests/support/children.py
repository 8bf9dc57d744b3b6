"""Real processes under test: they send and receive lines, and can be paused and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
_PRELUDE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
def send(*words): print(*words, flush=True)
def receive(): return sys.stdin.readline()
args = sys.argv[1:]
"""

SQLITE_WRITER = """
import asyncio
from stores.rows import NewWorker
from stores.sqlite import SQLiteStore
async def main():
    store = SQLiteStore(args[0])
    await store.open()
    epoch = await store.register(NewWorker("w", "here", "boot", 1, "0", 15000))
    def stop_here(cx, now):
        send(epoch)
        receive()
    await store._write(stop_here)
    send("done")
    receive()
asyncio.run(main())
"""
"""Registers, sends its epoch inside a transaction, and commits when it receives a line."""


class Child:
    """Runs `code`, which may use `send`, `receive` and `args`. Leaving the block kills it."""

    def __init__(self, code: str, *args: object, **popen: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **popen,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def receive(self) -> str:
        """Returns the next line of the process, or "" if the process has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def exit_status(self, timeout: float = 20.0) -> int:
        """Waits until the process has ended. Raises TimeoutExpired after `timeout` (s)."""
        return self._process.wait(timeout)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
