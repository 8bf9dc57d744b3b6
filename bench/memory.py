"""Memory of other processes, from /proc/PID/smaps_rollup. Linux only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """KiB. `rss`: all resident pages; `pss`: shared ones divided by the number of processes that map them;
    `uss`: those of this process alone."""

    rss: int
    pss: int
    uss: int


def memory_of(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    sizes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Memory(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])
