"""Shows one mutant at a time to tests, then to the simulation, in a copy of the tree."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tests.mutants.coverage_map import FOLDER, CoverageMap
from tests.mutants.mutant import Mutant

COPIED = ("coordinator", "stores", "tests", "docs", "tools", "bench", "examples", "requirements")
SEEDS = 300
SIMULATED = (
    "coordinator/runs",
    "coordinator/events",
    "coordinator/workers",
    "coordinator/locks",
    "stores/sql/sqlite",
)
"""What the simulation runs: only there are seeds a judge."""
_START = 60.0
"""Seconds that starting pytest and servers may take on a busy machine."""
_SLOWER = 4.0
"""Times of its usual duration after which a set of tests hangs."""


class Verdict(StrEnum):
    killed = "killed by tests"
    hung = "killed by a time limit"
    simulated = "killed by seeds"
    survived = "survived"


class Judged(NamedTuple):
    mutant: Mutant
    verdict: Verdict
    tests: int
    """Shown to it, before it was killed or at all."""
    seconds: float


class Judge:
    """Has one copy of the tree, so several judges work side by side."""

    def __init__(self, root: Path, number: int, coverage: CoverageMap, seed: int) -> None:
        self._root, self._coverage, self._seed = root, coverage, seed
        self._tree = root / FOLDER / f"tree-{number}"
        shutil.rmtree(self._tree, ignore_errors=True)
        self._tree.mkdir(parents=True)
        for name in COPIED:
            shutil.copytree(root / name, self._tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in root.iterdir():
            if file.is_file() and not file.name.startswith(".cov"):
                shutil.copy(file, self._tree)

    def judge(self, mutant: Mutant) -> Judged:
        began, file = time.monotonic(), self._tree / mutant.path
        text = file.read_text()
        file.write_text(mutant.applied(text))
        try:
            verdict, tests = self._verdict(mutant)
        finally:
            file.write_text(text)
        return Judged(mutant, verdict, tests, time.monotonic() - began)

    def _verdict(self, mutant: Mutant) -> tuple[Verdict, int]:
        shown = 0
        for tests in self._coverage.tests_of(mutant, random.Random(f"{self._seed} {mutant.id}")):
            if not tests:
                continue
            shown += len(tests)
            within = _START + _SLOWER * self._coverage.seconds(tests)
            status = self._run("pytest", *_quietly(tests), within=within)
            if status is None:
                return Verdict.hung, shown
            if status != 0:
                return Verdict.killed, shown
        if mutant.path.startswith(SIMULATED):
            status = self._run(
                "tests.simulation", "--seeds", str(SEEDS), "--jobs", "1", within=_START + SEEDS * 0.2
            )
            if status != 0:
                return (Verdict.hung if status is None else Verdict.simulated), shown
        return Verdict.survived, shown

    def _run(self, *module: str, within: float) -> int | None:
        """Exit status, or None where it took too long."""
        environment = os.environ | {"PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=self._tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(within)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _quietly(tests: list[str]) -> list[str]:
    return ["-x", "-q", "-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-header", *tests]


def _end(process: subprocess.Popen[bytes]) -> None:
    """With the servers that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
