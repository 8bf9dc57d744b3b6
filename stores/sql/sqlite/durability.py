"""Durability of commits, and known defects of the engine."""

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


def has_wal_reset_race(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Versions in which a checkpoint and a write at the same moment may damage a database in WAL mode."""
    if version >= _FIXED or version < (3, 7, 0):
        return False
    major, minor, patch, *_ = version
    fixed = _FIXED_BRANCHES.get((major, minor))
    return fixed is None or patch < fixed
