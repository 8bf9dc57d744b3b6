"""The SQL files of the schema: tables, migrations, functions, and the revisions of the functions."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from stores.sql.migration import Migration, migrations_of, oldest_program, scripts_in

_PACKAGE = "stores.sql.postgres"
_FUNCTION = re.compile(
    r"^(?:CREATE (?:OR REPLACE )?FUNCTION rc\.(\w+)\(.*?\$\$;|ALTER FUNCTION rc\.(\w+)\(.*?;)$",
    re.MULTILINE | re.DOTALL,
)


@cache
def migrations() -> tuple[Migration, ...]:
    return migrations_of(files(_PACKAGE))


def oldest(*, at: int | None = None) -> int:
    """The version that a program has to know to work on the schema of version `at` (None = the newest)."""
    return oldest_program([migration for migration in migrations() if at is None or migration.number <= at])


@cache
def functions() -> tuple[str, ...]:
    """The functions' files, in the order of their names."""
    return tuple(sql for _, sql in scripts_in(files(_PACKAGE) / "functions"))


@cache
def functions_of_migrations() -> dict[str, tuple[str, ...]]:
    """By name, the statements that make each function which only the schema and migrations make, in order."""
    elsewhere = {match[1] for script in functions() for match in _FUNCTION.finditer(script)}
    statements: dict[str, tuple[str, ...]] = {}
    for migration in migrations():
        for match in _FUNCTION.finditer(migration.sql):
            name = match[1] or match[2]
            if name not in elsewhere:
                again = re.sub(r"^CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", match[0])
                statements[name] = (*statements.get(name, ()), again)
    return statements


def revision() -> str:
    """The revision of this program's functions; `revisions` ends with it."""
    digest = hashlib.sha256()
    for script in functions():
        digest.update(script.encode())
    return digest.hexdigest()[:16]


@cache
def revisions() -> tuple[str, ...]:
    """All revisions that the functions have had, up to this program's (functions/revisions.txt). Functions of
    a revision that is not in it are of a newer program."""
    where = files(_PACKAGE) / "functions" / "revisions.txt"
    return tuple(where.read_text(encoding="utf-8").split())


def named(sql: str, schema: str) -> str:
    """The statement with the schema's own name in place of `rc`, quoted: it may be a keyword."""
    return re.sub(r"\brc\.", f'"{schema}".', sql)
