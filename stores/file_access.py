"""Why this process cannot read and write the files of a SQLite store."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_SUFFIXES = ("", "-wal", "-shm", "-gate")


def obstacle(database: Path) -> str | None:
    """Names the first file or folder that this process cannot write, and why; None = there is none. A store
    needs its folder as well, because SQLite creates files in it."""
    database = database.absolute()
    folder = database.parent
    files = [Path(f"{database}{suffix}") for suffix in _SUFFIXES]
    for path, needed in ((folder, os.W_OK | os.X_OK), *((file, os.R_OK | os.W_OK) for file in files)):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{str(path)!r} cannot be accessed: {error.strerror}"
        if not _accessible(path, needed):
            return _why(path, status)
    return None


def _accessible(path: Path, needed: int) -> bool:
    return os.access(path, needed, effective_ids=os.access in os.supports_effective_ids)


def _why(path: Path, status: os.stat_result) -> str:
    if hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{str(path)!r} is on a file system that is mounted read-only"
    user = f" for uid {os.geteuid()}" if hasattr(os, "geteuid") else ""
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}, owner uid {status.st_uid}"
    return f"{str(path)!r} is not writable{user} ({mode})"
