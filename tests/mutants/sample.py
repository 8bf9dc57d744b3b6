"""Draws mutants of the core."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.python_mutants import python_mutants
from tests.mutants.sql_mutants import sql_mutants

CORE = (
    "coordinator/runs",
    "coordinator/workers",
    "coordinator/events",
    "coordinator/event_logs",
    "coordinator/locks",
    "coordinator/notifiers",
    "coordinator/redis",
    "coordinator/webhooks",
    "coordinator/crons",
    "coordinator/gateway",
    "stores",
)
EQUIVALENT = Path(__file__).with_name("equivalent.toml")


def folder_of(path: str) -> str:
    """The part of the report that a file counts in."""
    parts = path.split("/")[:-1]
    return "/".join(parts[:3] if parts[:2] == ["stores", "sql"] else parts[:2])


def all_mutants(root: Path, only: str | None = None) -> Iterator[Mutant]:
    for part in CORE:
        for file in sorted((root / part).rglob("*")):
            path = file.relative_to(root).as_posix()
            if only is not None and not path.startswith(only):
                continue
            if file.suffix == ".py":
                yield from python_mutants(path, file.read_text())
            elif file.suffix == ".sql" and "functions" in file.parts:
                yield from sql_mutants(path, file.read_text())


def equivalent() -> dict[str, str]:
    """Mutants that change nothing a user could see, by id, with the reason."""
    entries: dict[str, dict[str, str]] = tomllib.loads(EQUIVALENT.read_text())
    return {name: entry["reason"] for name, entry in entries.items()}


def draw(root: Path, count: int, seed: int, only: str | None = None) -> list[Mutant]:
    """Every mutant has the same chance; one a place, so that a line with many changes counts once."""
    places = dict[tuple[str, int], list[Mutant]]()
    for mutant in all_mutants(root, only):
        places.setdefault((mutant.path, mutant.line), []).append(mutant)
    chosen = random.Random(seed)
    drawn = chosen.sample(sorted(places), min(count, len(places)))
    return [chosen.choice(places[place]) for place in drawn]
