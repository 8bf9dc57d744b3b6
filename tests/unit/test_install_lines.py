"""Every install line in documents and messages names extras that exist, and works as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "coordinator").rglob("*.py"))


def lines_in(files: list[Path]) -> list[str]:
    return sorted({line for file in files for line in re.findall(r"pip install '([^']+)'", file.read_text())})


def extras_of(requirement: str) -> set[str]:
    extras = re.search(r"\[([a-z,]+)\]", requirement)
    assert extras is not None
    return set(extras[1].split(","))


WRITTEN = lines_in(DOCUMENTS)


@pytest.mark.parametrize("requirement", WRITTEN + lines_in(SOURCES))
def test_extras_that_are_named_exist(requirement: str) -> None:
    assert extras_of(requirement) <= EXTRAS


def test_no_document_takes_the_project_from_an_index() -> None:
    """It is on none yet."""
    assert WRITTEN
    assert [line for line in WRITTEN if not line.startswith(".[") and " @ git+" not in line] == []
    assert not [
        file.name for file in DOCUMENTS if re.search(r"pip install run-coordinator", file.read_text())
    ]


@pytest.mark.slow
def test_lines_for_a_clone_are_understood_by_pip() -> None:
    """All extras that they name, in one line, because pip builds the project for each. Without an index: all
    requirements of the extras are installed already."""
    extras = {name for line in WRITTEN if line.startswith(".[") for name in extras_of(line)}
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--no-build-isolation",
        f".[{','.join(sorted(extras))}]",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stdout + done.stderr


def test_gateway_without_its_extra_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None\n"
        "try:\n    from coordinator.gateway import create_gateway\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "coordinator.gateway needs fastapi" in done.stdout
    assert "[gateway]" in done.stdout
