"""`python -m tests.hostile --count 10000 --seed 7`; to repeat one request: `--seed 7 --only 123`, or b123.

`--crowd 120`: only 2,000 slow connections, for 120 s, together with runs that must not be lost.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.campaign import Report, Target, attack, flood, target
from tests.hostile.crowd import crowd
from tests.hostile.siege import besiege

WARM_UP = 1500
"""Requests and connections that are sent before the measurement, beside as many slow connections: afterwards
each worker has imported what they need and has reached its usual memory."""
GROWTH = 20 << 20
FLOOD, CUT, FLOOD_GROWTH = 60 << 20, 1 << 20, 5 << 20
BYTES_SHARE = 4  # one connection in so many belongs to the byte half


async def campaign(seed: int, count: int, crowd_size: int) -> int:
    of_bytes = count // BYTES_SHARE
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        async with target(Path(folder)) as attacked:
            warm, at_first = min(WARM_UP, count), attacked.memory()
            async with crowd(attacked.server.port, attacked.known.key, crowd_size):
                await attack(attacked, seed=seed + 1, count=warm, of_bytes=warm)
            descriptors = await attacked.without_connections()
            before, began = attacked.memory(), time.monotonic()
            async with crowd(attacked.server.port, attacked.known.key, crowd_size) as slow:
                report = await attack(attacked, seed=seed, count=count - of_bytes, of_bytes=of_bytes)
            took = time.monotonic() - began
            report.failures += slow.failures
            left = (
                await attacked.without_connections() - descriptors
            )  # Counter drops the kinds that are fewer
            after = attacked.memory()
            await _flooded(attacked, report)
    if left["socket"]:
        report.failures.append(f"descriptors are left open: {left}")
    if after - before > GROWTH:
        report.failures.append(f"the workers hold {(after - before) >> 20} MiB more")
    report.failures += report.slow
    print(
        f"{count - of_bytes} requests and {of_bytes} connections beside {crowd_size} slow ones, with seed"
        f" {seed}, in {took:.0f} s; slowest answer {report.slowest:.2f} s; the workers held"
        f" {at_first >> 20} MiB at first, {before >> 20} MiB before and {after >> 20} MiB after, and"
        f" {left.total()} descriptors more"
    )
    return _verdict(report)


async def _flooded(attacked: Target, report: Report) -> None:
    sent, more = await flood(attacked, FLOOD)
    print(
        f"{FLOOD >> 20} MiB of trailers: cut after {sent >> 10} KiB, the workers held {more >> 10} KiB more"
    )
    if sent > CUT or more > FLOOD_GROWTH:
        report.failures.append("trailers are not bounded")


async def again(seed: int, only: str) -> int:
    number = int(only.removeprefix("b"))
    alone = {"count": 0, "of_bytes": 1} if only.startswith("b") else {"count": 1}
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        async with target(Path(folder)) as attacked:
            report = await attack(attacked, seed=seed, first=number, **alone)
    return _verdict(report)


def _verdict(report: Report) -> int:
    for what, times in sorted(report.statuses.items()):
        print(f"{times:7}  {what}")
    for failure in report.failures[:20]:
        print(failure)
    print(f"{len(report.failures)} failures")
    return 1 if report.failures else 0


async def siege(seconds: float, limit: int, size: int) -> int:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        async with target(Path(folder), workers=1, limit=(limit, limit)) as attacked:
            result = await besiege(attacked, seconds=seconds, size=size)
    print(f"{size} slow connections, ulimit -n {limit}, {seconds:g} s\n{result}")
    return 1 if result.failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make hostile")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default=None, metavar="NUMBER")
    parser.add_argument("--slow", type=int, default=2000, help="slow connections beside")
    parser.add_argument("--crowd", type=float, default=None, metavar="SECONDS")
    parser.add_argument("--descriptors", type=int, default=1024)
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    if options.crowd is not None:
        work = siege(options.crowd, options.descriptors, options.slow)
    elif options.only is not None:
        work = again(seed, options.only)
    else:
        work = campaign(seed, options.count, min(options.slow, options.count))
    sys.exit(asyncio.run(work))
