"""The mutants of `make mutants`: each is a change, and one that the file survives."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import CoverageData

from tests.mutants.coverage_map import COVERAGE
from tests.mutants.python_mutants import python_mutants
from tests.mutants.sample import all_mutants, draw, equivalent
from tests.mutants.sql_mutants import sql_mutants

pytestmark = pytest.mark.timeout(240)  # tests of many steps

ROOT = Path(__file__).resolve().parents[2]

STARTS = """
import subprocess, sys

def test_that_starts_one():
    subprocess.run([sys.executable, "-c", "from coordinator import ids; ids.new_run_id()"], check=True)

def test_that_starts_none():
    pass
"""

PYTHON = '''
def free(row, now, *, limit=3):
    """Docstring with 1 number."""
    if row.settled and not row.held:
        row.count += 1
    try:
        return use(row, now, limit=limit)
    except KeyError:
        return row.expires <= now
'''


def test_python_mutants_cover_each_kind_of_change() -> None:
    changes = {(mutant.kind, mutant.after) for mutant in python_mutants("free.py", PYTHON)}
    assert changes == {
        ("condition", "((row.settled) or (not row.held))"),
        ("drop-condition", "((not row.held))"),
        ("drop-condition", "((row.settled))"),
        ("negate", "bool(row.held)"),
        ("remove", "pass"),
        ("constant", "2"),
        ("return", "return None"),
        ("swap-arguments", "use(now, row, limit=limit)"),
        ("drop-argument", "use(row, now)"),
        ("exception", "ZeroDivisionError"),
        ("compare", "(row.expires < now)"),
    }


def test_sql_mutants_keep_assignments_and_comments() -> None:
    sql = """CREATE OR REPLACE FUNCTION rc.free(_id text) RETURNS void AS $$
    -- WHERE a = b
    UPDATE runs SET held = false WHERE run_id = _id AND settled_at IS NOT NULL;
$$;"""
    assert {(mutant.kind, mutant.before, mutant.function) for mutant in sql_mutants("f.sql", sql)} == {
        ("sql-constant", "false", "rc.free"),
        ("sql-compare", "=", "rc.free"),
        ("sql-condition", "AND", "rc.free"),
        ("sql-negate", "IS NOT NULL", "rc.free"),
    }


def test_same_change_on_another_line_is_another_mutant() -> None:
    text = "def f(a, b):\n    b += 1\n    a += 1\n"
    moved = "\n\n" + text
    first, second = (mutant.id for mutant in python_mutants("f.py", text) if mutant.kind == "constant")
    assert first != second
    assert [mutant.id for mutant in python_mutants("f.py", moved) if mutant.kind == "constant"] == [
        first,
        second,
    ]


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, str]]:
    """Path and text of 200 mutants of the core."""
    mutants = draw(ROOT, 200, seed=1)
    return [(mutant.path, mutant.applied((ROOT / mutant.path).read_text())) for mutant in mutants]


def test_mutants_of_the_core_differ_and_compile(sample: list[tuple[str, str]]) -> None:
    for path, text in sample:
        assert text != (ROOT / path).read_text()
        if path.endswith(".py"):
            ast.parse(text)


def test_known_equivalent_mutants_still_exist() -> None:
    """The code that such a mutant changes has kept its text, or its entry has lost its meaning."""
    assert equivalent().keys() <= {mutant.id for mutant in all_mutants(ROOT)}


def test_lines_of_a_process_count_for_the_test_that_starts_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(STARTS)
    plugins = ("-p", "tests.mutants.contexts", "-p", "no:randomly", "-p", "no:cacheprovider", "--no-header")
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        *COVERAGE,
        *plugins,
        str(tmp_path / "test_it.py"),
    )
    data_file = tmp_path / "coverage"
    environment = os.environ | {"COVERAGE_FILE": str(data_file)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200, stdout=subprocess.DEVNULL)
    data = CoverageData(str(data_file))
    data.read()
    contexts = data.contexts_by_lineno(str(ROOT / "coordinator/ids.py")).values()
    tests = {context.partition("::")[2] for names in contexts for context in names if context}
    assert tests == {"test_that_starts_one"}
