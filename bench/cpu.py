"""CPU time of other processes, in nanoseconds' resolution. Linux only: reads /proc/PID/task/TID/schedstat."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time of all live threads of these processes. A thread that has ended is not included."""
    total = 0
    for pid in pids:
        for path in (_PROC / str(pid) / "task").glob("*/schedstat"):
            with suppress(OSError):  # the thread ended meanwhile
                total += int(path.read_text("ascii").split()[0])
    return total / 1e9


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    tree, pending = list[int](), [pid]
    while pending:
        tree.append(pending.pop())
        for path in (_PROC / str(tree[-1]) / "task").glob("*/children"):
            with suppress(OSError):
                pending += map(int, path.read_text("ascii").split())
    return tree
