"""Statements with parameters by name, as calls: PostgreSQL numbers parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from stores.sql.columns import Columns
from stores.sql.postgres.calls import Call, Query
from stores.sql.postgres.codec import RUN_COLUMNS, plain, run_columns, run_of
from stores.sql.select import RUNS_IN_FLIGHT, RUNS_IN_FLIGHT_BY_ID, Row, Select

T = TypeVar("T")

_NAME = re.compile(r"(?<!:):([a-z_0-9]+)")


@lru_cache(maxsize=1000)
def _numbered(sql: str) -> tuple[Query, tuple[str, ...]]:
    """The statement with `$1` in place of its first name, and the names in the order of their numbers."""
    names = tuple(dict.fromkeys(_NAME.findall(sql)))
    return Query(_NAME.sub(lambda name: f"${names.index(name[1]) + 1}", sql)), names


def bound(sql: str, parameters: Mapping[str, object]) -> tuple[Query, tuple[object, ...]]:
    """The statement and arguments of a Call. `sql` has names (`:limit`) and casts (`::text`)."""
    query, names = _numbered(sql)
    return query, tuple(parameters[name] for name in names)


_COLUMNS = {True: RUN_COLUMNS, False: run_columns(())}
"""Of a whole run, with and without private columns."""


def select(read: Select[T]) -> Call[T]:
    mapper = run_of if read.columns is None else _plain
    query, names = _statement(read.columns or _COLUMNS[read.private], read.table, read.condition)
    args = tuple(read.parameters[name] for name in names)
    return Call(query, args, lambda rows: read.answer(rows, mapper))


@lru_cache(maxsize=1000)
def _statement(columns: str, table: str, condition: str) -> tuple[Query, tuple[str, ...]]:
    table = "runs" if table in (RUNS_IN_FLIGHT, RUNS_IN_FLIGHT_BY_ID) else table
    return _numbered(f"SELECT {columns} FROM rc.{table} WHERE {condition}")


def _plain(columns: Row) -> Columns:
    return [plain(value) for value in columns]
