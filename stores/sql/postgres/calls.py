"""One statement and what its rows mean: what a transaction or a read is for PostgreSQL.

`rc` in a statement stands for the schema's name; whoever makes the call puts it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Row = Sequence[Any]
Rows = Sequence[Row]


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the schema, by its parameters' types and what is selected of its answer.

    One whose last parameter is `_patient boolean` is written without it in `types`: called for one alone it
    waits for locks, called for many it does not, and answers those that it did not touch with 'busy' in its
    first column.
    """

    name: str
    types: tuple[str, ...]
    columns: str = "*"
    batched: bool = False

    @cached_property
    def sql(self) -> str:
        places = [f"${at}" for at in range(1, len(self.types) + 1)]
        if self.batched:
            places.append("true")
        return f"SELECT {self.columns} FROM rc.{self.name}({', '.join(places)})"

    @cached_property
    def sql_of_many(self) -> str:
        """With one array for each parameter. In the order of the arrays, one after another, in one
        transaction; the first column says which."""
        arrays = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(self.types, 1))
        names = [f"a{at}" for at in range(1, len(self.types) + 1)]
        return (
            f"SELECT many.place, {self.columns} FROM unnest({arrays}) WITH ORDINALITY"
            f" AS many ({', '.join(names)}, place),"
            f" LATERAL rc.{self.name}({', '.join(f'many.{name}' for name in names)}, false) one"
        )


@dataclass(frozen=True, eq=False)
class Query:
    """A statement of its own: a read."""

    sql: str


@dataclass(slots=True)
class Call:
    """`answer` turns the rows into what the operation answers, or raises its refusal. `key`: calls of a batch
    are made in this order, the same everywhere. `alone`: never in a batch."""

    statement: Function | Query
    args: tuple[Any, ...]
    answer: Callable[[Rows], Any]
    key: str = ""
    alone: bool = True


def nothing(rows: Rows) -> None:
    """The answer of a call that has none."""


def scalar(rows: Rows) -> Any:
    """The one column of the one row."""
    return rows[0][0]
