"""File descriptors of this process: how many it may have, and how many of them connections may take."""

from __future__ import annotations

import sys
from pathlib import Path

RESERVE = 64
"""Descriptors that connections never take: for a store and a Redis that are connected to anew, webhooks and
their look-ups, files that are read again, and connections that were accepted and not counted yet."""

_RESERVED_SHARE = 4
"""Where there are many, runs get this part of them for files and connections of their own."""

_MOST_RESERVED = 4096
_FEWEST = 16
_UNLIMITED = 1 << 20
_MACOS = 10240  # OPEN_MAX: more is refused there, also where the hard limit is infinite


def raise_limit() -> None:
    """The soft limit to the hard one. A shell's 1024 is for programs that use select()."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS):
        if wanted == soft or (0 <= wanted < soft):
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue
        return


def room_for_connections() -> int:
    """How many connections there is room for beside what is open now and what may still be opened."""
    allowed = soft_limit()
    reserve = max(RESERVE, min(allowed // _RESERVED_SHARE, _MOST_RESERVED))
    return max(_FEWEST, allowed - _open() - reserve)


def soft_limit() -> int:
    if sys.platform == "win32":
        return _UNLIMITED
    import resource  # noqa: PLC0415 - not on every platform

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return sum(1 for _ in Path(folder).iterdir())
        except OSError:
            continue
    return RESERVE
