"""The type of a statement on each engine, see `stores.sql.statements`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar, cast

from stores.sql.postgres.calls import Call

P = ParamSpec("P")
T = TypeVar("T")
Query = TypeVar("Query")

OnConnection: TypeAlias = Callable[Concatenate[sqlite3.Connection, P], T]
"""SQLite's kind of function."""
AsCall: TypeAlias = Callable[P, Call[T]]
"""PostgreSQL's kind of function."""
Statement: TypeAlias = OnConnection[P, T] | AsCall[P, T]
Transaction: TypeAlias = Statement[Concatenate[int, P], T]
"""With its time, and the arguments P."""
SearchStatement: TypeAlias = Statement[Concatenate[Query, str | None, P], T]
"""With the query, the user whose rows are searched (None = those of all users), and the arguments P."""


def statement(operation: Callable[P, T]) -> Statement[P, T]:
    """The type of an engine's function for `operation`."""
    return cast("Statement[P, T]", operation)
