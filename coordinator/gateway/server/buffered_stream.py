"""BufferedStream: a log handler that does not block its callers; a thread writes the lines in batches.

The standard library has two handlers for that, which do not fit: `QueueListener` wakes its thread for each
record, and `MemoryHandler` holds its lock while it writes, so a reader that does not read would still block
the event loop.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from typing import TextIO
from weakref import WeakSet

INTERVAL = 0.05
"""Seconds for which a line may wait for further ones, unless it is an error."""

MAX_BYTES = 1 << 20
"""Bytes that may wait to be written. Further lines are dropped and counted."""

CLOSE_WITHIN = 1.0
"""Seconds for which `flush` waits for a reader that does not read."""

_PIECE = 4096
"""Bytes that a pipe takes either at once or not at all, so that lines of several workers do not mix."""


class BufferedStream(logging.Handler):
    """Writes to the descriptor of `stream`, in the order of the records. Raises OSError if it has none.

    Lines are written within `INTERVAL`, and at the end of the process; a process that is killed loses those
    that wait. A record of level ERROR or above is written before its caller continues, with the lines before
    it; but by the thread, without a delay, if it is longer than 4 KiB or if the reader does not read.

    After `close`, and in a forked process, which may end without exit handlers, each caller writes its record
    itself, within `CLOSE_WITHIN`.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._descriptor, self._encoding = stream.fileno(), stream.encoding
        self._threaded = True
        self._reset()
        _handlers.add(self)

    def _reset(self) -> None:
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._lines = deque[bytes]()
        self._writing = threading.Lock()
        """Held while lines are taken and written. A holder of `self.lock` awaits it with a timeout only."""
        self._piece = b""
        self._added = self._taken = 0
        """Bytes, of all lines so far: guarded by `self.lock`, and by `_writing`."""
        self._dropped = self._reported = 0
        """The same in lines."""
        self._filled, self._urgent = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")
        except Exception:  # noqa: BLE001 - as in all handlers: a record that cannot be formatted fails no caller
            self.handleError(record)
            return
        waiting = self._added - self._taken
        if waiting and waiting + len(line) > MAX_BYTES:
            self._dropped += 1
            return
        self._added += len(line)
        self._lines.append(line)
        if not self._threaded:
            self._write(CLOSE_WITHIN)
            return
        error = record.levelno >= logging.ERROR
        if error:
            self._write(0.0)
        if error or waiting > MAX_BYTES // 2:
            self._urgent.set()
        if not self._filled.is_set():
            self._filled.set()
            self._start_thread()

    def flush(self) -> None:
        self._write(CLOSE_WITHIN)

    def close(self) -> None:
        """`flush` precedes it, as in `logging.shutdown`, which the interpreter calls when it exits."""
        self._threaded = False
        super().close()

    def forked(self) -> None:
        """Called in a forked process, whose parent writes the lines that wait."""
        self._reset()
        self._threaded = False

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._write_batches, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there are too many, or the interpreter exits
            self._thread = None
            self._write(CLOSE_WITHIN)

    def _write_batches(self) -> None:
        while True:
            self._filled.wait()
            self._urgent.wait(INTERVAL)
            self._filled.clear()
            self._urgent.clear()
            self._write(None)

    def _write(self, within: float | None) -> None:
        """Writes the lines that wait, until none is left or the reader has not read for `within` (s)."""
        if not self._writing.acquire(timeout=-1 if within is None else within):
            return
        try:
            while self._fill_piece():
                whole = within is None or len(self._piece) <= _PIECE
                if not whole and not within:
                    return
                if not self._poll.poll(None if within is None else within * 1000):
                    return
                self._write_piece(len(self._piece) if whole else _PIECE)
        except OSError:  # the reader has ended, or the disk is full
            self._discard()
        finally:
            self._writing.release()

    def _fill_piece(self) -> bool:
        """Takes the next lines, at most `_PIECE` bytes or one line. Returns False if none are left."""
        if self._piece:
            return True
        taken, size = list[bytes](), 0
        while self._lines and (not taken or size + len(self._lines[0]) <= _PIECE):
            taken.append(self._lines.popleft())
            size += len(taken[-1])
        self._taken += size
        if not taken and (dropped := self._dropped - self._reported):
            self._reported += dropped
            taken.append(self._report(dropped))
        self._piece = b"".join(taken)
        return bool(taken)

    def _write_piece(self, size: int) -> None:
        try:
            written = os.write(self._descriptor, self._piece[:size])
        except BlockingIOError:  # the descriptor does not block, and another process was quicker
            return
        self._piece = self._piece[written:]

    def _discard(self) -> None:
        self._piece = b""
        while self._lines:
            self._taken += len(self._lines.popleft())

    def _report(self, dropped: int) -> bytes:
        fields = {
            "name": "coordinator.serve",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log lines were dropped, because stderr was not read",
            "args": (dropped,),
        }
        return f"{self.format(logging.makeLogRecord(fields))}\n".encode(self._encoding, "backslashreplace")


_handlers: WeakSet[BufferedStream] = WeakSet()


def _forked() -> None:
    for handler in _handlers:
        handler.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
