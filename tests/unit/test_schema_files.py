"""Both engines have the same tables, but for what is listed here."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from stores.sql.migration import migrations_of
from stores.sql.tables import TABLES

ONLY_ON_POSTGRES = {
    "threads.expires_at",  # SQLite has an expression in the index
    "runs.saved",  # SQLite keeps these in rollback_ref
    "runs.saved_values",
    "runs.saved_interrupts",
}
INDEXES_ONLY_ON_POSTGRES = {"threads_metadata"}

_TABLE = re.compile(r"^CREATE TABLE (\w+) \((.*?)^\)", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r'^    "?([a-z]\w*)"? +[A-Za-z]', re.MULTILINE)


def sql_of(engine: str) -> str:
    return "\n".join(each.sql for each in migrations_of(files(f"stores.sql.{engine}"))).replace("rc.", "")


def columns(sql: str) -> set[str]:
    return {f"{table}.{name}" for table, body in _TABLE.findall(sql) for name in _COLUMN.findall(body)}


def indexes(sql: str) -> set[str]:
    return set(re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", sql, re.MULTILINE))


def test_both_engines_have_the_same_columns() -> None:
    sqlite, postgres = columns(sql_of("sqlite")), columns(sql_of("postgres"))
    assert {f"{table.name}.{key}" for table in TABLES for key in table.key} < sqlite
    assert postgres - sqlite == ONLY_ON_POSTGRES
    assert sqlite - postgres == set()


def test_both_engines_have_the_same_migrations() -> None:
    names = [
        [each.name for each in migrations_of(files(f"stores.sql.{engine}"))]
        for engine in ("sqlite", "postgres")
    ]
    assert names[0] == names[1]


def test_both_engines_have_the_same_indexes() -> None:
    sqlite, postgres = indexes(sql_of("sqlite")), indexes(sql_of("postgres"))
    assert "runs_one_holder" in sqlite
    assert postgres - sqlite == INDEXES_ONLY_ON_POSTGRES
    assert sqlite - postgres == set()


def test_two_migrations_with_one_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    for name in ("0021_one.sql", "0022_purpose.sql", "0022_queued_us.sql"):
        (tmp_path / "migrations" / name).write_text("SELECT 1;\n")
    with pytest.raises(ValueError, match=r"number 22: 0022_purpose\.sql and 0022_queued_us\.sql"):
        migrations_of(tmp_path)
