"""Inspects a database file: its program, its schema version, the integrity of its pages."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from stores.file_access import obstacle
from stores.inspection import Applied, Inspection
from stores.json_values import JsonObject
from stores.sql.conditions import IN_FLIGHT, WAITS
from stores.sql.sqlite import schema
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS
from stores.sql.sqlite.durability import has_wal_reset_race

_FAULTS_SHOWN = 20
_REMEDY = "undo what removed or renamed it, or restore a backup"
_WAL_RESET = (
    f"SQLite {sqlite3.sqlite_version} has the WAL-reset race: while workers run, open the file with other"
    " programs read-only (guide Operations, Other programs)"
)


def inspect(path: Path, now: int) -> Inspection:
    """Opens the file read-only. Raises StoreRefused, sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as cx:
        version = schema.version(cx, str(path))
        cx.execute("BEGIN")  # all counts of one moment
        missing = schema.missing(cx, version) if version else []
        counts = _counts_where_possible(cx, now, missing) if version else _NOTHING
        return Inspection(
            version=version,
            newest=schema.migrations()[-1].number,
            applied=_applied(cx) if version else (),
            faults=_faults(cx),
            missing=tuple(f"{name} is missing: {_REMEDY}" for name in missing),
            **counts,
            size=path.stat().st_size,
            wal_size=_size(Path(f"{path}-wal")),
            disk_free=shutil.disk_usage(path.parent).free,
            obstacle=obstacle(path),
            advice=(_WAL_RESET,) if has_wal_reset_race() else (),
        )


_VERSIONS = "SELECT version, count(*) FROM workers WHERE state <> 'dead' GROUP BY version ORDER BY version"
_NOTHING: JsonObject = {
    "runs": {},
    "in_flight": 0,
    "waiting": 0,
    "threads": 0,
    "workers_alive": 0,
    "workers_expired": 0,
    "transitions": 0,
}


def _counts_where_possible(cx: sqlite3.Connection, now: int, missing: Sequence[str]) -> JsonObject:
    """Zeros where what is missing is needed for the counts."""
    try:
        return _counts(cx, now)
    except sqlite3.OperationalError:
        if not missing:
            raise
        return _NOTHING


def _counts(cx: sqlite3.Connection, now: int) -> JsonObject:
    def count(query: str, *args: object) -> int:
        return cx.execute(f"SELECT count(*) FROM {query}", args).fetchone()[0]

    return {
        "runs": dict(cx.execute("SELECT status, count(*) FROM runs GROUP BY status ORDER BY status")),
        "in_flight": count(f"{IN_FLIGHT_RUNS} WHERE {IN_FLIGHT}"),
        "waiting": count(f"{IN_FLIGHT_RUNS} WHERE {IN_FLIGHT} AND {WAITS}"),
        "threads": count("threads"),
        "workers_alive": count("workers WHERE state <> 'dead'"),
        "workers_expired": count("workers WHERE state <> 'dead' AND lease_until < ?", now),
        "workers_draining": count("workers WHERE state = 'draining'"),
        "transitions": count("transitions"),
        "versions": dict(cx.execute(_VERSIONS)),
    }


def _applied(cx: sqlite3.Connection) -> tuple[Applied, ...]:
    rows = cx.execute("SELECT version, name, applied_at FROM schema_version ORDER BY version")
    return tuple(Applied(*row) for row in rows)


def _faults(cx: sqlite3.Connection) -> tuple[str, ...]:
    faults = [row[0] for row in cx.execute(f"PRAGMA integrity_check({_FAULTS_SHOWN})")]
    return () if faults == ["ok"] else tuple(faults)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
