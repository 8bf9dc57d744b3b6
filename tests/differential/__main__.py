"""`python -m tests.differential --sequences 5000`. `--only 123` repeats one sequence."""

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
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first = random.randrange(2**31) if options.seed is None else options.seed
    seeds = range(first, first + options.sequences) if options.only is None else (options.only,)
    with database() as postgres:
        report = asyncio.run(compare(postgres, seeds, steps=options.steps, on_progress=progress))
    for kind, (seed, what) in report.failures.items():
        print(f"\nseed {seed}, and {report.counts[kind] - 1} more of its kind:\n{what}")
    print(
        f"{report.sequences} sequences from seed {seeds[0]}, {report.called.total()} calls on each engine in"
        f" {report.seconds:.0f} s: {len(report.failures)} kinds of differences"
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
