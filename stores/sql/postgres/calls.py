"""One statement and what its rows mean: what a transaction or a read is for PostgreSQL.

`rc` in a statement stands for the schema's name; whoever makes the call puts it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
Row = Sequence[Any]
Rows = Sequence[Row]


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the schema, by its parameters' types and what is selected of its answer.

    Beside some there is one for many calls (functions/a_batches.sql): it takes an array for each of the first
    `for_many` parameters, None = for all, and answers, by their places, for the calls that it has made.
    """

    name: str
    types: tuple[str, ...]
    columns: str = "*"
    for_many: int | None = None

    @cached_property
    def sql(self) -> str:
        places = ", ".join(f"${at}" for at in range(1, len(self.types) + 1))
        return f"SELECT {self.columns} FROM rc.{self.name}({places})"

    @cached_property
    def sql_of_many(self) -> str:
        """All or nothing; the first column is the place of a call in the arrays, from 1."""
        arrays = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(self.types[: self.for_many], 1))
        return f"SELECT place, {self.columns} FROM rc.{self.name}_many({arrays})"

    def arrays(self, calls: Sequence[Call[Any]]) -> tuple[list[Any], ...]:
        """The parameters of `sql_of_many`."""
        return tuple(map(list, zip(*(call.args[: self.for_many] for call in calls), strict=True)))


@dataclass(frozen=True, eq=False)
class Query:
    """A statement of its own: a read."""

    sql: str


@dataclass(slots=True)
class Call(Generic[T_co]):
    """`answer` turns the rows into what the operation answers, or raises its refusal. `again` does so where
    an attempt before went unanswered: what it may have written is no refusal then; None = as `answer`. `key`:
    calls of a batch are made in this order, the same everywhere. `alone`: never in a batch.
    `unanswered`: an attempt was made in a batch, and may have been written. `longest` (s): the server stops a
    read that takes longer."""

    statement: Function | Query
    args: tuple[Any, ...]
    answer: Callable[[Rows], T_co]
    key: str = ""
    alone: bool = True
    again: Callable[[Rows], T_co] | None = None
    unanswered: bool = False
    longest: float | None = None

    def if_made_again(self, again: Callable[[Rows], S]) -> Call[T_co | S]:
        """This call, with `again`. Its answers are added to the type of the call's."""
        wider = cast("Call[T_co | S]", self)
        wider.again = again
        return wider


class Unknown(Enum):
    outcome = "outcome"


OUTCOME_UNKNOWN: Final = Unknown.outcome
"""Instead of an answer: this attempt wrote nothing, but an earlier one, which went unanswered, may have
written what the operation was to write."""


def nothing(rows: Rows) -> None:
    """The answer of a call that has none."""


def scalar(rows: Rows) -> Any:
    """The one column of the one row."""
    return rows[0][0]
