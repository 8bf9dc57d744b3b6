"""The files that make a schema, and which programs may work on it.

An engine's package has `schema.sql`, which makes version FIRST, and numbered files in `migrations/`, each of
which makes the next version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import NamedTuple

FIRST = 20
"""The version that schema.sql makes. Nothing below was released: ADR 0073."""

_OLDEST = re.compile(r"^-- oldest program: (\d+)$", re.MULTILINE)


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def oldest(self) -> int | None:
        """The version that a program has to know to work on the schema from here on, where this migration
        names it (`-- oldest program: N`); None = the one that the migrations before named."""
        match = _OLDEST.search(self.sql)
        return None if match is None else int(match[1])


def migrations_of(folder: Traversable) -> tuple[Migration, ...]:
    """`schema.sql` of an engine's package, and the migrations behind it, in order."""
    first = Migration(FIRST, f"{FIRST:04}_schema", (folder / "schema.sql").read_text(encoding="utf-8"))
    later = folder / "migrations"
    names = sorted(entry.name for entry in later.iterdir()) if later.is_dir() else []
    return (
        first,
        *(
            Migration(int(name[:4]), name.removesuffix(".sql"), (later / name).read_text(encoding="utf-8"))
            for name in names
            if name.endswith(".sql")
        ),
    )


def oldest_program(migrations: Sequence[Migration]) -> int:
    """The version that a program has to know to work beside the newest of these."""
    named = (migration.oldest for migration in reversed(migrations))
    return next((oldest for oldest in named if oldest is not None), migrations[0].number)
