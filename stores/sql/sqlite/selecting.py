"""Reads that are the same SQL on both engines, on a connection."""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import TypeVar

from stores.sql.codec import RUN_COLUMNS, run_row
from stores.sql.select import RUNS_IN_FLIGHT, Row, Select
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS

T = TypeVar("T")


def select(cx: sqlite3.Connection, read: Select[T]) -> T:
    mapper = run_row if read.columns is None else _as_it_is
    sql = _statement(read.columns, read.table, read.condition)
    return read.answer(cx.execute(sql, read.parameters).fetchall(), mapper)


@lru_cache(maxsize=1000)
def _statement(columns: str | None, table: str, condition: str) -> str:
    table = IN_FLIGHT_RUNS if table == RUNS_IN_FLIGHT else table
    return f"SELECT {columns or RUN_COLUMNS} FROM {table} WHERE {condition}"


def _as_it_is(columns: Row) -> Row:
    return columns
