"""Durability of commits, where statements are journaled, and known defects of the engine."""

from __future__ import annotations

import sqlite3

_FIXED = (3, 51, 3)
_FIXED_BRANCHES = {(3, 44): 6, (3, 50): 7}


def make_durable(cx: sqlite3.Connection, synchronous: str) -> None:
    """For every connection that commits or checkpoints. On macOS fsync does not reach the disk: there SQLite
    has to request more, and elsewhere the two last pragmas have no effect."""
    cx.execute(f"PRAGMA synchronous = {synchronous}")
    cx.execute("PRAGMA fullfsync = ON")
    cx.execute("PRAGMA checkpoint_fullfsync = ON")


def journal_statements_in_memory(cx: sqlite3.Connection) -> None:
    """For every connection that writes, when its schema is up to date: indexes of whole tables are better
    built with files.

    A statement that may fail half-way copies the pages that it changes, and SQLite moves more than 64 KiB of
    copies to a file in the folder for temporary files (https://sqlite.org/tempfiles.html). That is most of
    what a run writes there and elsewhere (56 of 72 kB), and a folder that is full or read-only would fail
    writes."""
    cx.execute("PRAGMA temp_store = MEMORY")


def has_wal_reset_race(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Versions in which a checkpoint and a write at the same moment may damage a database in WAL mode."""
    if version >= _FIXED or version < (3, 7, 0):
        return False
    major, minor, patch, *_ = version
    fixed = _FIXED_BRANCHES.get((major, minor))
    return fixed is None or patch < fixed
