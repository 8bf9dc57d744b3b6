"""`python -m tests.hostile --count 10000 --seed 7`; one again: `--seed 7 --only 123`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.campaign import attack, target


async def main(seed: int, count: int, first: int) -> int:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        async with target(Path(folder)) as attacked:
            before, began = attacked.memory(), time.monotonic()
            report = await attack(attacked, seed=seed, count=count, first=first)
            took, after = time.monotonic() - began, attacked.memory()
    for what, times in sorted(report.statuses.items()):
        print(f"{times:7}  {what}")
    print(
        f"{count} requests with seed {seed} in {took:.0f} s; the workers held {before >> 20} MiB before and"
        f" {after >> 20} MiB after; {len(report.failures)} failures"
    )
    for failure in report.failures[:20]:
        print(failure)
    return 1 if report.failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make hostile")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="NUMBER")
    asked = parser.parse_args()
    chosen = random.randrange(2**31) if asked.seed is None else asked.seed
    one = asked.only is not None
    sys.exit(asyncio.run(main(chosen, 1 if one else asked.count, asked.only if one else 0)))
