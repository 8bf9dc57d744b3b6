"""Reads that are the same SQL on both engines, on a connection."""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import TypeVar

from stores.sql.codec import RUN_COLUMNS, run_columns, run_row
from stores.sql.select import RUNS_IN_FLIGHT, RUNS_IN_FLIGHT_BY_ID, Row, Select
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS, IN_FLIGHT_RUNS_BY_ID

T = TypeVar("T")

_SOURCES = {RUNS_IN_FLIGHT: IN_FLIGHT_RUNS, RUNS_IN_FLIGHT_BY_ID: IN_FLIGHT_RUNS_BY_ID}

_COLUMNS = {True: RUN_COLUMNS, False: run_columns(())}
"""Of a whole run, with and without private columns."""


def select(cx: sqlite3.Connection, read: Select[T]) -> T:
    mapper = run_row if read.columns is None else _as_it_is
    sql = _statement(read.columns or _COLUMNS[read.private], read.table, read.condition)
    return read.answer(cx.execute(sql, read.parameters).fetchall(), mapper)


@lru_cache(maxsize=1000)
def _statement(columns: str, table: str, condition: str) -> str:
    return f"SELECT {columns} FROM {_SOURCES.get(table, table)} WHERE {condition}"


def _as_it_is(columns: Row) -> Row:
    return columns
