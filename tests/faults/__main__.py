"""python -m tests.faults [--minutes 30] [--seed N] [--store postgres] [--only LEG] [--out build/faults]"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.faults.fault import Fault
from tests.faults.measures import Book
from tests.faults.report import kills, write
from tests.faults.schedule import Leg, legs_of, plan_for
from tests.faults.suite import run_all

SHORT = 3.0


class Screen:
    """A line for each leg; on a terminal also what strikes now, and when it will be over. `write` is called
    after each leg, so that what breaks off has a report too."""

    def __init__(self, book: Book, legs: list[Leg], write: Callable[[], object]) -> None:
        self._write = write
        self._book, self._console = book, Console(highlight=False, soft_wrap=True)
        self._left = sum(leg.lasts for leg in legs)
        self._expected, self._done, self._began = self._left, 0.0, time.monotonic()
        self._leg: Leg | None = None
        self._status = self._console.status("")

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._status.stop()

    def __call__(self, leg: Leg, fault: Fault | None) -> None:
        if leg is not self._leg:
            self._leg = leg
            self._console.print(
                f"{leg.name}: {len(leg.faults)} faults; so far {kills(self._book)} kills,"
                f" {len(self._book.violations)} violations; {self._eta()}"
            )
        if fault is not None:
            self._done += fault.lasts
            doing = fault.name
        else:
            doing = "over"
            self._write()
        self._status.update(
            f"{leg.name}: {doing} | {sum(self._book.faults.values())} faults, {kills(self._book)} kills,"
            f" {len(self._book.violations)} violations | {self._eta()}"
        )

    def _eta(self) -> str:
        """By the pace so far, once there is one."""
        gone = time.monotonic() - self._began
        pace = gone / self._done if self._done > 10 else 1.0
        return f"about {max(0.0, self._expected - self._done) * pace / 60:.1f} min left"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=SHORT)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--only", default="", help="legs whose name begins like this")
    parser.add_argument("--out", type=Path, default=Path("build/faults"))
    return parser.parse_args()


def main() -> int:
    options = arguments()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    legs = [
        leg
        for leg in legs_of(plan_for(options.minutes, options.store), random.Random(seed), options.store)
        if leg.name.startswith(options.only)
    ]
    book, began = Book(), time.monotonic()
    print(f"seed {seed}: {sum(len(leg.faults) for leg in legs)} faults in {len(legs)} legs")

    def report() -> Path:
        took = time.monotonic() - began
        return write(
            book, legs, options.out, store=options.store, seed=seed, minutes=options.minutes, took=took
        )

    try:
        with Screen(book, legs, report) as screen:
            asyncio.run(run_all(legs, seed, options.out / "kept", book, screen))
    finally:
        print(report().read_text())
    return 0 if book.ok else 1


if __name__ == "__main__":
    sys.exit(main())
