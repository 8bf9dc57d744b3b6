"""db copy: move a deployment from an SQLite file to PostgreSQL."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from coordinator.bootstrap import POSTGRES, store_from_url
from coordinator.cli import screen
from coordinator.cli.failures import DONE, note
from coordinator.cli.text import counted
from coordinator.errors import InvalidArgument
from coordinator.settings import Settings
from coordinator.urls import redact_url
from stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from stores.copying import Copied, Progress

_PROGRESS_INTERVAL = 2.0  # s


async def copy_store(settings: Settings, *, source: str, target: str, as_json: bool) -> int:
    """Raises InvalidArgument, StoreRefused, StoreUnavailable."""
    if not target.startswith(POSTGRES):
        raise InvalidArgument("to", f"{redact_url(target)} is not a URL postgresql://host/database")
    from_store = store_from_url(source, settings, migrate=False, create=False)
    if not isinstance(from_store, SQLiteStore):
        raise InvalidArgument("from", f"{redact_url(source)} is not a URL sqlite:///path")
    to_store = store_from_url(target, settings)
    from stores.copying import copy
    from stores.postgres import PostgresStore

    assert isinstance(to_store, PostgresStore)  # noqa: S101 - checked by its URL
    copied = await copy(from_store.path, to_store, _progress_reporter())
    shown = redact_url(target)
    if as_json:
        tables = {table.table: {key: getattr(table, key) for key in _SHOWN} for table in copied}
        body = {"from": source, "to": shown, "schema": to_store.schema, "tables": tables}
        screen.show_document({"copy": body})
    else:
        screen.show_lines([f"copied {source} to {shown}, schema {to_store.schema}; all rows are equal"])
        screen.show_lines([_line(table) for table in copied], indent=2)
    return DONE


_SHOWN = ("rows", "there_before", "sha256")


def _line(table: Copied) -> str:
    before = f", {table.there_before} of them copied by an earlier attempt" if table.there_before else ""
    return f"{table.table}: {counted(table.rows, 'row')}{before}, sha256 {table.sha256[:16]}"


def _progress_reporter() -> Callable[[Progress], None]:
    due = time.monotonic() + (0.5 if sys.stderr.isatty() else _PROGRESS_INTERVAL)

    def report(progress: Progress) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + _PROGRESS_INTERVAL
            done = 100 * progress.rows // max(progress.of, 1)
            note(f"{progress.doing} {progress.table}: {progress.rows} of {progress.of} rows ({done} %)")

    return report
