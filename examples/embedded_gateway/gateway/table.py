"""The gateway's own `runs` table, which its reports read."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from examples.embedded_gateway.gateway.runs import Run


class RunTable:
    def __init__(self, file: Path) -> None:
        self._file = file
        with self._connected() as cx:
            cx.execute(
                "CREATE TABLE IF NOT EXISTS own_runs (run_id TEXT PRIMARY KEY, thread_id TEXT, status TEXT,"
                " error TEXT, stop_reason TEXT)"
            )

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=10)

    def write(self, run: Run) -> None:
        with self._connected() as cx:
            cx.execute(
                "INSERT OR REPLACE INTO own_runs VALUES (?, ?, ?, ?, ?)",
                (run.run_id, run.thread_id, run.status, run.error, run.stop_reason),
            )

    def report(self) -> dict[str, int]:
        with self._connected() as cx:
            return dict(cx.execute("SELECT status, count(*) FROM own_runs GROUP BY status"))
