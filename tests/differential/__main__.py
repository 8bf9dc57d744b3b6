"""`python -m tests.differential --sequences 5000`; one of them again: `--only 123`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys

from tests.differential.campaign import Report, compare
from tests.support.postgres import database


def progress(report: Report) -> None:
    if report.sequences % 100 == 0:
        calls = report.called.total()
        print(
            f"{report.sequences} sequences, {calls} calls, {len(report.failures)} kinds of differences",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make differential")
    parser.add_argument("--sequences", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=80, help="operations in each sequence")
    parser.add_argument("--seed", type=int, default=None, help="of the first sequence")
    parser.add_argument("--only", type=int, default=None, metavar="SEED")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first = random.randrange(2**31) if asked.seed is None else asked.seed
    seeds = range(first, first + asked.sequences) if asked.only is None else (asked.only,)
    with database() as found:
        report = asyncio.run(compare(found, seeds, steps=asked.steps, tell=progress))
    for kind, (seed, what) in report.failures.items():
        print(f"\nseed {seed}, and {report.counts[kind] - 1} more of its kind:\n{what}")
    print(
        f"{report.sequences} sequences from seed {seeds[0]}, {report.called.total()} calls on each engine in"
        f" {report.seconds:.0f} s: {len(report.failures)} kinds of differences"
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
