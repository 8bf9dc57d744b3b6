"""File descriptors of this process: their limit, and how many of them connections may use."""

from __future__ import annotations

import sys
from pathlib import Path

RESERVE = 64
"""Descriptors that connections never use. They are for reconnecting to the store and to Redis, for webhooks
and their DNS queries, for files that are re-read, and for accepted connections that are not counted yet."""

_RESERVED_SHARE = 4
"""With a high limit, 1/4 of the descriptors is reserved for files and connections of runs."""

_MAX_RESERVE = 4096
_MIN_CONNECTIONS = 16
_UNLIMITED = 1 << 20
_MACOS = 10240  # OPEN_MAX: macOS refuses more, even if the hard limit is infinite


def raise_limit() -> None:
    """Raises the soft limit to the hard limit. The usual 1024 exists for programs that use select()."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, _MACOS):
        if limit == soft or (0 <= limit < soft):
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return


def room_for_connections() -> int:
    """Returns how many connections may be opened, beside the open descriptors and the reserve; at least
    16."""
    limit = soft_limit()
    reserve = max(RESERVE, min(limit // _RESERVED_SHARE, _MAX_RESERVE))
    return max(_MIN_CONNECTIONS, limit - _count_open() - reserve)


def soft_limit() -> int:
    if sys.platform == "win32":
        return _UNLIMITED
    import resource  # noqa: PLC0415 - not on every platform

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _count_open() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return sum(1 for _ in Path(folder).iterdir())
        except OSError:
            continue
    return RESERVE
