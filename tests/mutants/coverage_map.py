"""Which tests run which lines, and how long each test takes.

The map comes from one run of the whole suite with coverage, a context a test, which the processes that it
starts share (`contexts`). Lines of processes that are killed, and PostgreSQL's functions, are in no context:
such mutants are shown to tests of the same subject."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from coverage import CoverageData

from tests.mutants.mutant import Mutant

FOLDER = Path("build/mutants")
FIRST, SECOND = 25, 40
"""How many tests a mutant is shown: the quickest that run its line, then others."""
COVERAGE = ("--cov=coordinator", "--cov=stores", "--cov-context=test", "--cov-report=", "--cov-fail-under=0")
_MAX_SECONDS = 20.0
"""Tests that take longer are not shown: campaigns have targets of their own."""
_CONTEXT = re.compile(r"\|(?:run|setup|teardown)$")


def measure(root: Path, processes: int) -> None:
    """Run the suite once with coverage, about 15 minutes of two cores. What fails is left out of the map."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    scheduled = ("-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder", "-q")
    plugins = ("-p", "tests.mutants.durations", "-p", "tests.mutants.contexts")
    command = [sys.executable, "-m", "pytest", *scheduled, *COVERAGE, *plugins]
    files = {"COVERAGE_FILE": str(folder / "coverage"), "MUTANT_DURATIONS": str(folder / "durations.json")}
    subprocess.run(command, cwd=root, env=os.environ | files, check=False)


class CoverageMap:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._data = CoverageData(str(root / FOLDER / "coverage"))
        self._data.read()
        durations: dict[str, float] = json.loads((root / FOLDER / "durations.json").read_text())
        self._seconds = {test: seconds for test, seconds in durations.items() if seconds < _MAX_SECONDS}
        self._contexts = cache(self._contexts_of)

    def tests_of(self, mutant: Mutant, draw: random.Random) -> list[list[str]]:
        """Two rounds of tests, each with the quickest first. The second prefers tests whose names share words
        with the mutant's file and function."""
        running = sorted(self._running(mutant), key=lambda test: self._seconds[test])
        first, rest = running[:FIRST], running[FIRST:]
        draw.shuffle(rest)
        words = set(re.findall(r"[a-z]{4,}", f"{mutant.path} {mutant.function}".lower()))
        rest.sort(key=lambda test: -sum(word in test.lower() for word in words))
        return [first, sorted(rest[:SECOND], key=lambda test: self._seconds[test])]

    def seconds(self, tests: list[str]) -> float:
        return sum(self._seconds[test] for test in tests)

    def _running(self, mutant: Mutant) -> set[str]:
        if mutant.path.endswith(".sql"):
            return self._calling(mutant.function)
        return self._tests_on(mutant.path, mutant.line) or self._of_subject(mutant)

    def _calling(self, function: str) -> set[str]:
        """Tests on PostgreSQL that run the Python function in whose text the SQL function is named; all
        of them where no Python function names it."""
        named = re.compile(rf"{re.escape(function)}\b")
        tests = set[str]()
        for file in (self._root / "stores").rglob("*.py"):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if named.search(line):
                    tests |= self._near(file.relative_to(self._root).as_posix(), number)
        on_postgres = {test for test in self._seconds if "postgres" in test}
        return (tests & on_postgres) or on_postgres

    def _near(self, path: str, line: int) -> set[str]:
        """Of the first line from `line` on, within a statement, that any test runs."""
        nearby = (self._tests_on(path, number) for number in range(line, line + 12))
        return next((tests for tests in nearby if tests), set[str]())

    def _tests_on(self, path: str, line: int) -> set[str]:
        tests = {_CONTEXT.sub("", context) for context in self._contexts(path).get(line, [])}
        return {test for test in tests if test in self._seconds}

    def _contexts_of(self, path: str) -> dict[int, list[str]]:
        return self._data.contexts_by_lineno(str(self._root / path))

    def _of_subject(self, mutant: Mutant) -> set[str]:
        subject = Path(mutant.path).stem
        return {test for test in self._seconds if subject in test}
