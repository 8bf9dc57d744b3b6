"""The files that make a schema, and which programs may work on it.

An engine's package has the folder `tables/`, whose files together make version FIRST, a file a subject, and
numbered files in `migrations/`, each of which makes the next version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import NamedTuple

FIRST = 20
"""The version that `tables/` makes. Nothing below was released: ADR 0073."""

_OLDEST = re.compile(r"^-- oldest program: (\d+)$", re.MULTILINE)


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def oldest(self) -> int | None:
        """The version that a program has to know to work on the schema from here on, where this migration
        names it (`-- oldest program: N`); None = the one that the migrations before named."""
        return _oldest_named_in(self.sql)


@cache
def _oldest_named_in(sql: str) -> int | None:
    match = _OLDEST.search(sql)
    return None if match is None else int(match[1])


def migrations_of(folder: Traversable) -> tuple[Migration, ...]:
    """`tables/` of an engine's package, and the migrations behind it, in order. Raises ValueError where two
    have one number."""
    later = [Migration(int(name[:4]), name, sql) for name, sql in scripts_in(folder / "migrations")]
    for one, next_one in pairwise(later):
        if one.number == next_one.number:
            raise ValueError(
                f"two migrations have the number {one.number}: {one.name}.sql and {next_one.name}.sql"
                f" in {folder / 'migrations'}; give one of them the next number"
            )
    return Migration(FIRST, f"{FIRST:04}_schema", schema_of(folder)), *later


def schema_of(folder: Traversable) -> str:
    """The statements that make version FIRST."""
    return "\n".join(sql for _, sql in scripts_in(folder / "tables"))


def scripts_in(folder: Traversable) -> list[tuple[str, str]]:
    """The SQL files of a folder in the order of their names, each as (name without suffix, content)."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    return [
        (file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


def oldest_program(migrations: Sequence[Migration]) -> int:
    """The version that a program has to know to work beside the newest of these."""
    named = (migration.oldest for migration in reversed(migrations))
    return next((oldest for oldest in named if oldest is not None), migrations[0].number)
