"""The simulation in CI: thousands of seeds without a violation, a replay that is the same bit for bit,
and every planted bug found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS, FOUND_ELSEWHERE
from tests.simulation.calls import DATABASE_IS_THERE
from tests.simulation.campaign import Batch, hunt_all, laboratory, run_seed, run_seeds
from tests.simulation.pairs import POSSIBLE, Tally
from tests.simulation.store import Database

ROOT = Path(__file__).parents[2]
SEEDS = (*range(2500), 4574)
"""The first half of what `make simulate` tries, and the seed that has found S36."""
HUNT = 2000
"""How many seeds a planted bug may survive."""
JOBS = 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("untraced")
def test_no_seed_breaks_a_property() -> None:
    total = Batch()
    for batch in run_seeds(SEEDS, JOBS):
        total.add(batch)
    assert total.seeds == len(SEEDS)
    assert not total.failed, f"replay: make simulate SEED={min(total.failed)}; {total.failed}"
    tally = Tally(total.met)
    assert not tally.wrong()
    assert len(tally.unmet) < len(POSSIBLE) / 2, f"most are met, even in the short form: {tally.unmet}"


@pytest.mark.parametrize("seed", [3, 62, 106])
def test_a_seed_replays_bit_for_bit(seed: int) -> None:
    """In processes with different hash seeds and addresses."""
    first, second = (
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    )
    assert len(first.splitlines()) > 20
    assert first == second


def test_a_seed_does_not_depend_on_those_before_it() -> None:
    traces: list[list[str]] = []
    with laboratory():
        for before in ((), (1, 2)):
            database, trace = Database(), list[str]()
            for seed in before:
                run_seed(seed, database)
            run_seed(3, database, trace=trace.append)
            traces.append(trace)
    assert len(traces[0]) > 20
    assert traces[0] == traces[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("untraced")
def test_planted_bugs_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    hunts = sorted(
        hunt_all(sorted(set(BUGS) - set(FOUND_ELSEWHERE)), HUNT, JOBS), key=lambda hunt: -hunt.tried
    )
    with capsys.disabled():
        print()
        for hunt in hunts:
            print(f"{hunt.bug:40} {hunt.tried:6} seeds  {hunt.violation:.80}")
    assert len(hunts) >= 70
    assert not [hunt.bug for hunt in hunts if hunt.seed is None]
    assert not [hunt.bug for hunt in hunts if DATABASE_IS_THERE in hunt.violation], "no bug, but broken SQL"


def test_what_the_simulation_does_not_find_has_a_test_that_does() -> None:
    assert set(FOUND_ELSEWHERE) <= set(BUGS)
    assert all(_exists(test) for test in FOUND_ELSEWHERE.values()), FOUND_ELSEWHERE


def _exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return f"def {name}(" in (ROOT / path).read_text("utf-8")


def test_every_line_of_the_track_record_names_a_planted_bug_or_a_test() -> None:
    """So each is found again in every CI run."""
    text = (ROOT / "docs/track-record.md").read_text("utf-8")
    lines = re.findall(r"^\| (?:[SF]\d+|U-[\w.-]+) \|.*$", text, re.MULTILINE)
    assert len(lines) == sum(line.startswith("| ") for line in text.splitlines()) - 1, "but for the head"
    for line in lines:
        bugs = re.findall(r"BUG=([a-z-]+)", line)
        tests = re.findall(r"`((?:tests|coordinator/testing/conformance)/[\w/]+\.py::\w+)`", line)
        assert bugs or tests, line
        assert all(name in BUGS for name in bugs), line
        assert all(map(_exists, tests)), line
