"""Explore the model: every scenario, or the scenario of a weakness."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.model.exploration import Result, explore
from tests.model.scenarios import SCENARIOS, first_state
from tests.model.weaknesses import WEAKNESSES


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 = all invariants hold; 1 = a violation."""
    options = _options(argv)
    weak = frozenset(options.weaken)
    names = options.scenario or sorted({WEAKNESSES[name].scenario for name in weak}) or list(SCENARIOS)
    results: list[dict[str, Any]] = []
    for name in names:
        began = time.monotonic()
        result = check(name, options.faults, weak, quiet=options.json)
        seconds = round(time.monotonic() - began, 2)
        results.append({"scenario": name, "faults": options.faults, "seconds": seconds, **asdict(result)})
        if not options.json:
            show(name, result, seconds)
    if options.json:
        print(json.dumps({"weakened": sorted(weak), "results": results}))
    elif not weak:
        print(f"{sum(result['states'] for result in results)} states in all, at most {options.faults} faults")
    return int(any(result["violation"] for result in results))


def check(name: str, faults: int, weak: frozenset[str] = frozenset(), *, quiet: bool = True) -> Result:
    scene = SCENARIOS[name]

    def progress(states: int) -> None:
        print(f"\r{name}: {states} states …", end="", file=sys.stderr, flush=True)

    return explore(
        first_state(scene),
        scene,
        faults=faults,
        weak=weak,
        progress=(lambda states: None) if quiet else progress,
    )


def weakest(name: str, *, faults: int) -> tuple[int, Result]:
    """Returns the smallest number of faults that shows the weakness, and the violation."""
    result = check(WEAKNESSES[name].scenario, 0, frozenset({name}))
    allowed = 0
    while result.violation is None and allowed < faults:
        allowed += 1
        result = check(WEAKNESSES[name].scenario, allowed, frozenset({name}))
    return allowed, result


def show(name: str, result: Result, seconds: float) -> None:
    end = "" if result.violation else ": all invariants hold"
    print(f"\r{name}: {result.states} states in {seconds} s{end}")
    if result.violation:
        print(f"  VIOLATION {result.violation}")
        for number, step in enumerate(result.trace, 1):
            print(f"  {number:3} {step}")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    text = "\n".join(
        f"  {name:22} {weakness.what} [{weakness.scenario}]" for name, weakness in WEAKNESSES.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.model",
        description=__doc__,
        epilog=f"weaknesses:\n{text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=2, help="at most this many (default: 2)")
    parser.add_argument("--weaken", nargs="+", default=[], metavar="NAME", choices=WEAKNESSES)
    parser.add_argument("--scenario", nargs="+", default=[], metavar="NAME", choices=SCENARIOS)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
