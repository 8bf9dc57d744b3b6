"""`make roll`: the last release beside the working tree on SQLite, PostgreSQL and Redis."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.roll.roll import STORES, roll
from tests.roll.versions import BASELINE, NoBaseline, packages

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"


def write_line(line: str | None) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=STORES, action="append")
    arguments = parser.parse_args()
    try:
        packages()
    except NoBaseline as error:
        write_line(f"{RED}THE ROLL WAS NOT RUN: {error}{PLAIN}")
        return 1 if os.environ.get("CI") else 0
    return 1 if asyncio.run(all_of(arguments.store or STORES)) else 0


async def all_of(kinds: Iterable[str]) -> int:
    """All at once, for they mostly wait. How many answers are wrong."""
    return sum(await asyncio.gather(*map(one, kinds)))


async def one(kind: str) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rc-roll-") as folder:
        answers = await roll(kind, Path(folder))
    failed = [answer for answer in answers if answer.wrong is not None]
    right = f"{len(answers) - len(failed)} of {len(answers)} right"
    write_line(f"{kind}: {BASELINE[:7]} beside the working tree: {right}, {time.monotonic() - began:.0f} s")
    for answer in failed:
        write_line(f"{RED}wrong: {answer.check} ({answer.direction}, {answer.seconds:.1f} s){PLAIN}")
        write_line(answer.wrong)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
