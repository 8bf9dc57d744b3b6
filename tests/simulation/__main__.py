"""`python -m tests.simulation`: many seeds, one seed step by step, or a planted bug until it is found; and
the calls of the store in many seeds, repeated on PostgreSQL."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path

from tests.simulation.bugs import BUGS
from tests.simulation.campaign import Batch, Hunt, hunt_all, laboratory, remember, run_seed, run_seeds
from tests.simulation.faults import STRIKES
from tests.simulation.pairs import EVERY, IMPOSSIBLE, POSSIBLE, WHERE, Tally, seeds_for
from tests.simulation.points import WAYS
from tests.simulation.replay import Replays, replay_seeds
from tests.simulation.store import Database
from tests.simulation.world import Met

LONG = 100_000
"""So many seeds have to meet every pair that there is."""
TURNS, MORE = 5, 50
"""At most so often, so many seeds more are aimed at each pair that they have not met."""
FRESH = 1 << 32
"""The first seed of a campaign is drawn below it, so that each tries seeds that no other has tried."""
BOUND = 30
"""ms of a core that a seed may take on average. Printed and not enforced: the machine may be busy."""


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    if options.replay:
        only = options.seed is not None
        first = options.seed if only else options.first or 0
        return replays(first, 1 if only else options.seeds, options.jobs)
    if options.seed is not None:
        return show(options.seed, options.bug)
    if options.bug:
        names = list(BUGS) if options.bug == "all" else [options.bug]
        hunts = list(hunt_all(names, options.seeds, options.jobs))
        if options.remember:
            remember(hunts)
        return show_hunts(hunts)
    first = random.randrange(FRESH) if options.first is None else options.first
    return campaign(first, options.seeds, options.jobs, options.json)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000, help="how many")
    parser.add_argument(
        "--first", type=int, help="the first of them; without it, one is drawn (with --replay: 0)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that share them")
    parser.add_argument("--seed", type=int, help="run this one and print it step by step")
    parser.add_argument(
        "--bug",
        metavar="NAME",
        choices=["all", *BUGS],
        help="plant this bug, or one after the other all of them, and try seeds until it is found",
    )
    parser.add_argument("--remember", action="store_true", help="write down which seeds have found bugs")
    parser.add_argument("--replay", action="store_true", help="repeat the seeds' calls on PostgreSQL")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser.parse_args(argv)


def show(seed: int, bug: str | None) -> int:
    """Prints every step of one seed; every replay prints the same."""
    with laboratory():
        if bug is None:
            violations = run_seed(seed, Database(), trace=print)
        else:
            with BUGS[bug].planted():
                violations = run_seed(seed, Database(), trace=print)
    for violation in violations:
        print(f"VIOLATION {violation}")
    return int(bool(violations))


def show_hunts(hunts: list[Hunt]) -> int:
    for hunt in sorted(hunts, key=lambda hunt: hunt.bug):
        where = "not found" if hunt.seed is None else f"seed {hunt.seed}"
        print(f"{hunt.bug:40} {where:>12} {hunt.tried:6} seeds {hunt.seconds:6.1f} s  {hunt.violation:.90}")
    return int(any(hunt.seed is None for hunt in hunts))


def replays(first: int, count: int, jobs: int) -> int:
    """Compares PostgreSQL's answers with those of the simulated store, and prints each difference."""
    total, began = Replays(), time.monotonic()
    for batch in replay_seeds(first, count, jobs):
        total.add(batch)
        for seed, how in sorted(batch.differed.items()):
            print(f"\rseed {seed}: {how:.2000}")
        print(f"\r{total.seeds}/{count} seeds, {len(total.differed)} differ", end="", flush=True)
    took = time.monotonic() - began
    print(f"\n{total.seeds} seeds with {total.calls} calls in {took:.1f} s: {len(total.differed)} differ")
    return int(bool(total.differed))


def campaign(first: int, count: int, jobs: int, report: Path | None) -> int:
    print(f"seeds {first} to {first + count - 1} (these again: make simulate FIRST={first} SEEDS={count})")
    total, began = Batch(), time.monotonic()
    try_seeds(range(first, first + count), total, jobs)
    for turn in range(TURNS if count >= LONG else 0):
        if unmet := Tally(total.met).unmet:
            print(f"{len(unmet)} pairs were not met: more seeds are aimed at them")
            beyond = first + count + turn * MORE * EVERY * len(POSSIBLE)
            try_seeds([seed for aim in unmet for seed in islice(seeds_for(aim, beyond), MORE)], total, jobs)
    tally, wall = Tally(total.met), time.monotonic() - began
    print_met(tally, total.met)
    each = 1000 * total.seconds / total.seeds
    print(f"{total.seeds} seeds in {wall:.1f} s, {each:.1f} ms of a core for each (bound: {BOUND} ms)")
    for seed, violations in sorted(total.failed.items())[:20]:
        print(f"seed {seed} (make simulate SEED={seed}): {violations[0]}")
    for what in tally.wrong():
        print(what)
    if report is not None:
        report.write_text(json.dumps(figures(total, tally, wall), indent=1) + "\n", encoding="utf-8")
    missed = count >= LONG and tally.unmet
    return int(bool(total.failed or tally.wrong() or missed))


def try_seeds(seeds: Sequence[int], total: Batch, jobs: int) -> None:
    """What they come to goes into `total`; progress and failures are printed as they come."""
    began, done = time.monotonic(), 0
    for batch in run_seeds(seeds, jobs):
        total.add(batch)
        done += batch.seeds
        for seed, violations in batch.failed.items():
            print(f"\rseed {seed}: {violations[0]:.200}")
        rate = done / (time.monotonic() - began)
        progress = f"{done}/{len(seeds)} seeds, {rate:.0f} a second, {len(total.failed)} failed"
        print(f"\r{progress}", end="", flush=True)
    print()


def print_met(tally: Tally, met: Counter[Met]) -> None:
    columns = [(where, strike) for strike in STRIKES for where in WHERE]
    print(f"{'await point':52}" + "".join(f"{strike[:4] + where[0].upper():>8}" for where, strike in columns))
    for point in sorted(WAYS.keys() | tally.points):
        cells = ((*point, where, strike) for where, strike in columns)
        counts = "".join(f"{'' if pair in IMPOSSIBLE else tally.met[pair] or '-':>8}" for pair in cells)
        print(f"{' / '.join(point):52.52}{counts}")
    for (kind, op, _, what), times in sorted(met.items()):
        if kind in ("Bus", "Slots"):
            print(f"{kind} {op}: {what} {times} times")
    print(
        f"{len(POSSIBLE) - len(tally.unmet)} of {len(POSSIBLE)} possible pairs of await point and fault met"
    )
    for point, pairs in groupby(sorted(tally.unmet), key=lambda pair: pair[:2]):
        print(
            f"not met: {' / '.join(point)}: {', '.join(f'{strike} {where}' for *_, where, strike in pairs)}"
        )


def figures(total: Batch, tally: Tally, wall: float) -> dict[str, object]:
    return {
        "seeds": total.seeds,
        "wall_seconds": round(wall, 1),
        "core_ms_a_seed": round(1000 * total.seconds / total.seeds, 2),
        "failed": {str(seed): violations for seed, violations in sorted(total.failed.items())},
        "wrong": tally.wrong(),
        "possible": len(POSSIBLE),
        "met": {" / ".join(pair): times for pair, times in sorted(tally.met.items())},
        "not_met": [" / ".join(pair) for pair in tally.unmet],
        "impossible": {" / ".join(pair): why for pair, why in sorted(IMPOSSIBLE.items())},
    }


if __name__ == "__main__":
    sys.exit(main())
