"""A numbered SQL file, and which programs may work on the schema that it makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_OLDEST = re.compile(r"^-- oldest program: (\d+)$", re.MULTILINE)


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def oldest(self) -> int | None:
        """The migration that a program has to know to work on the schema from here on, where this migration
        says so (`-- oldest program: N`); else that of the migration before stands."""
        found = _OLDEST.search(self.sql)
        return None if found is None else int(found[1])


def oldest_program(migrations: Sequence[Migration], *, known: int) -> int:
    """The newest migration that a program has to know to work beside the newest of these. `known`: what
    programs had to know before the first migration that says so."""
    named = (migration.oldest for migration in reversed(migrations))
    return next((oldest for oldest in named if oldest is not None), known)
