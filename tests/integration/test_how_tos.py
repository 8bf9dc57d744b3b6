"""The patches of docs/how-to are applied to a copy of the tree, and the walk over the fields passes there; it
does not pass without the files that are most easily forgotten."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.servers.postgres import URL_VARIABLE
from tests.support.postgres import Database

pytestmark = pytest.mark.timeout(240)  # tests of many steps

ROOT = Path(__file__).parent.parent.parent
WALK = "tests/fundamentals/test_run_spec.py"
HOW_TOS = {  # patch: (product files at most, the tests of the walk that are about it)
    "add-a-field": (9, "purpose or walk_with or together or taken_over"),
    "add-a-shown-field": (4, "queued_us or walk_with"),
}


LEFT_OUT = (
    ("add-a-field", "stores/sql/postgres/functions/3_admission.sql"),  # one engine of two
    ("add-a-field", "coordinator/record.py"),  # a copy that nothing requires
    ("add-a-field", "coordinator/cli/documents.py"),  # a list by hand
    ("add-a-shown-field", "coordinator/gateway/wire/documents.py"),
)
"""Those that are most easily forgotten: nothing but the walk notices."""


def copied(folder: Path) -> Path:
    for name in ("coordinator", "stores", "tests", "tools"):
        skipped = shutil.ignore_patterns("__pycache__", "docs")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    shutil.copytree(ROOT / "coordinator/gateway/docs", folder / "coordinator/gateway/docs")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def patch_of(name: str) -> str:
    return (ROOT / f"docs/how-to/{name}.patch").read_text(encoding="utf-8")


def parts(patch: str) -> dict[str, str]:
    """By file, its part of the patch."""
    sections = re.split(r"(?m)^(?=diff --git )", patch)[1:]
    return {part.split()[2].removeprefix("a/"): part for part in sections}


def product(patch: str) -> list[str]:
    return [file for file in parts(patch) if file.startswith(("coordinator/", "stores/"))]


def walk(tree: Path, patch: str, tests: str, server: str) -> subprocess.CompletedProcess[str]:
    applying = ["git", "apply", "-"]
    applied = subprocess.run(applying, cwd=tree, input=patch, text=True, capture_output=True, check=False)
    assert applied.returncode == 0, (
        f"see 'The patches go stale' in docs/how-to/add-a-field.md: {applied.stderr}"
    )
    subprocess.run([sys.executable, "-m", "tools.revise_functions"], cwd=tree, check=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider", WALK, "-k", tests],
        cwd=tree,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree), URL_VARIABLE: server},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


@pytest.mark.parametrize("name", HOW_TOS)
def test_patch_carries_the_field_everywhere(tmp_path: Path, shared_postgres: Database, name: str) -> None:
    patch, (most, tests) = patch_of(name), HOW_TOS[name]
    assert len(product(patch)) <= most
    walked = walk(copied(tmp_path), patch, tests, shared_postgres.url)
    assert walked.returncode == 0, walked.stdout
    assert "skipped" not in walked.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "left_out"), LEFT_OUT)
def test_patch_without_one_of_its_files_fails(
    tmp_path: Path, shared_postgres: Database, name: str, left_out: str
) -> None:
    patch = "".join(part for file, part in parts(patch_of(name)).items() if file != left_out)
    walked = walk(copied(tmp_path), patch, HOW_TOS[name][1], shared_postgres.url)
    assert walked.returncode != 0, walked.stdout
