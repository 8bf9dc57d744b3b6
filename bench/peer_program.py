"""What the programs of bench/peers.py have in common; imports nothing but the standard library."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

REDIS_VARIABLE = "COORDINATOR_BENCH_PEER_REDIS"


class Load(NamedTuple):
    runs: int
    at_once: int


def loads() -> Iterator[Load]:
    """Yields the load of each line of the standard input. Reports on the standard output that the program is
    ready, and that a load is done when the caller wants the next one. Blocks between loads."""
    _report()
    for line in sys.stdin:
        command = json.loads(line)
        yield Load(command["runs"], command["at_once"])
        _report()


def _report() -> None:
    print(json.dumps({"answer": None}), flush=True)
