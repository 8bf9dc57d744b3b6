"""A read of one table whose SQL is the same on both engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from stores.sql.columns import Column, Columns

T_co = TypeVar("T_co", covariant=True)
Row: TypeAlias = Columns
Mapper: TypeAlias = Callable[[Row], Column]

RUNS_IN_FLIGHT = "runs in flight"
RUNS_IN_FLIGHT_BY_ID = "runs in flight by id"


class Select(NamedTuple, Generic[T_co]):
    """`SELECT columns FROM table WHERE condition`; parameters stand in it by name (`:limit`).

    `columns`: None = a whole run, whose columns differ between the engines. `table`: RUNS_IN_FLIGHT and
    RUNS_IN_FLIGHT_BY_ID name the index that SQLite must use; the condition holds the one of that index.
    `answer` gets the rows, and a function that maps one of them: to a RunRow where `columns` is None,
    otherwise to plain values. It raises ValueError for a row that cannot be read. `private`: a whole run with
    its private columns, see `stores.spec.PRIVATE`.
    """

    columns: str | None
    table: str
    condition: str
    parameters: Mapping[str, object]
    answer: Callable[[Sequence[Row], Mapper], T_co]
    private: bool = False


def member_of(column: str, name: str, values: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The condition that the column has one of the values, and its parameters, which begin with `name`."""
    named = {f"{name}{at}": value for at, value in enumerate(values)}
    return f"{column} IN ({', '.join(f':{key}' for key in named)})", named
