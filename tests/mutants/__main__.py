"""`python -m tests.mutants`: draw mutants of the core, show each to the tests that run its line and to
seeds of the simulation, and print the score by folder and the survivors."""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.mutants.coverage_map import FOLDER, CoverageMap, measure
from tests.mutants.judge import Judge, Judged, Verdict
from tests.mutants.mutant import Mutant
from tests.mutants.sample import all_mutants, draw, equivalent, folder_of

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    console = Console()
    if options.measure or not (ROOT / FOLDER / "durations.json").exists():
        console.print(
            "The suite runs once with coverage, to see which tests run which lines (about 15 minutes)."
        )
        measure(ROOT, options.processes)
    if options.id:
        mutants = [mutant for mutant in all_mutants(ROOT) if mutant.id in options.id]
    else:
        seed = random.randrange(1 << 32) if options.seed is None else options.seed
        console.print(f"{options.count} mutants, seed {seed}")
        mutants = draw(ROOT, options.count, seed, options.only)
    known = equivalent()
    drawn = [mutant for mutant in mutants if mutant.id not in known]
    judged = judge_all(drawn, options.jobs, console)
    report(judged, len(mutants) - len(drawn), console)
    return 1 if any(one.verdict is Verdict.survived for one in judged) else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many are drawn")
    parser.add_argument("--seed", type=int, help="draw the same ones again, as long as the code is the same")
    parser.add_argument(
        "--only", metavar="PATH", help="of this folder or file, for instance coordinator/runs"
    )
    parser.add_argument("--id", action="append", help="judge this one, as a report names it; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are judged at the same time")
    parser.add_argument("--processes", type=int, default=4, help="of pytest, for the map")
    parser.add_argument("--measure", action="store_true", help="make the map of lines and tests again")
    return parser.parse_args(argv)


def judge_all(mutants: list[Mutant], jobs: int, console: Console) -> list[Judged]:
    coverage = CoverageMap(ROOT)
    judges = SimpleQueue[Judge]()
    for number in range(jobs):
        judges.put(Judge(ROOT, number, coverage, seed=0))

    def judge(mutant: Mutant) -> Judged:
        one = judges.get()
        try:
            return one.judge(mutant)
        finally:
            judges.put(one)

    judged = list[Judged]()
    with Progress(console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("judged", total=len(mutants))
        for one in pool.map(judge, mutants):
            judged.append(one)
            progress.advance(task)
            if one.verdict is Verdict.survived:
                progress.console.print(survivor(one), highlight=False, markup=False)
    return judged


def survivor(one: Judged) -> str:
    mutant = one.mutant
    where = f"{mutant.path}:{mutant.line} {mutant.function} ({mutant.kind}, id {mutant.id})"
    return f"\nSURVIVED {where}; {one.tests} tests saw nothing\n{mutant.diff(ROOT)}"


def report(judged: list[Judged], excepted: int, console: Console) -> None:
    table = Table("folder", "mutants", "tests", "time limit", "seeds", "survived", "score (95 %)")
    folders = sorted({folder_of(one.mutant.path) for one in judged})
    for folder in folders:
        table.add_row(folder, *_row(one for one in judged if folder_of(one.mutant.path) == folder))
    table.add_section()
    table.add_row("all", *_row(judged))
    console.print(table)
    console.print(
        f"{excepted} of those drawn are known as equivalent (tests/mutants/equivalent.toml) and were not run."
    )


def _row(judged: Iterable[Judged]) -> list[str]:
    verdicts = Counter(one.verdict for one in judged)
    total = verdicts.total()
    killed = total - verdicts[Verdict.survived]
    low, high = _wilson(killed, total)
    counts = [total, *(verdicts[verdict] for verdict in Verdict)]
    return [*map(str, counts), f"{killed / total:.0%} ({low:.0%}-{high:.0%})"]


def _wilson(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927)."""
    share, bound = successes / total, z * z / total
    middle, spread = share + bound / 2, z * math.sqrt(share * (1 - share) / total + bound / (4 * total))
    return (middle - spread) / (1 + bound), (middle + spread) / (1 + bound)


if __name__ == "__main__":
    sys.exit(main())
