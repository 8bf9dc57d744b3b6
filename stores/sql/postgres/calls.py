"""One statement and what its rows mean: what a transaction or a read is for PostgreSQL.

`rc` in a statement stands for the schema's name; the caller replaces it (`named`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final, Generic, Literal, Protocol, TypeVar, cast

from stores.sql.columns import Column, Columns

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
Row = Columns
Rows = Sequence[Row]


class Connection(Protocol):
    """What is used of an open connection. The driver is an optional package, and is not imported here."""

    async def execute(self, query: str, *args: object) -> object: ...

    async def fetch(self, query: str, *args: object) -> list[Column]: ...

    async def fetchrow(self, query: str, *args: object) -> Column: ...

    async def fetchval(self, query: str, *args: object) -> Column: ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Columns], columns: Iterable[str], schema_name: str
    ) -> object: ...

    def transaction(
        self, *, isolation: Literal["repeatable_read"] | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[object]: ...


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the schema: its name, its parameters' types, and the columns that are selected of its
    answer."""

    name: str
    types: tuple[str, ...]
    columns: str = "*"
    names: tuple[str, ...] = ()
    """The parameters' names; () = they are passed by position."""

    @classmethod
    def named(cls, name: str, parameters: Mapping[str, str], columns: str = "*") -> Function:
        """`parameters`: types by name, in the order of a call's arguments."""
        return cls(name, tuple(parameters.values()), columns, tuple(parameters))

    def _passed(self, at: int) -> str:
        return f"{self.names[at - 1]} => ${at}" if self.names else f"${at}"

    @cached_property
    def sql(self) -> str:
        places = ", ".join(self._passed(at) for at in range(1, len(self.types) + 1))
        return f"SELECT {self.columns} FROM rc.{self.name}({places})"


@dataclass(frozen=True, eq=False)
class BatchFunction:
    """A function of the schema that takes an array of calls, each a value of the type `record`
    (functions/1_common.sql). The one argument of a call is its record: see `record_of`."""

    name: str
    record: str
    columns: str

    @cached_property
    def sql(self) -> str:
        """A batch of one, which waits for locks and always answers."""
        return self._sql("json_build_array($1::json)", self.columns, waits=True)

    @cached_property
    def sql_of_batch(self) -> str:
        """All or nothing; the first column is the place of a call in the array, from 1."""
        return self._sql("$1::json", f"place, {self.columns}", waits=False)

    def batch(self, calls: Sequence[Call[object]]) -> tuple[str]:
        """The argument of `sql_of_batch`."""
        return (f"[{','.join(call.args[0] for call in calls)}]",)

    def _sql(self, records: str, columns: str, *, waits: bool) -> str:
        calls = f"ARRAY(SELECT c FROM json_populate_recordset(NULL::rc.{self.record}, {records}) c)"
        return f"SELECT {columns} FROM rc.{self.name}({calls}, {str(waits).lower()})"


def record_of(**attributes: object) -> str:
    """A call of a batch, as JSON. Attributes that are None or left out are NULL to the server."""
    return _encode({name: value for name, value in attributes.items() if value is not None})


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, eq=False)
class Query:
    """A statement of its own: a read."""

    sql: str


@dataclass(slots=True)
class Call(Generic[T_co]):
    """`answer` maps the rows to the result of the operation, or raises its refusal. `again` does so after an
    attempt whose answer was lost: what that may have written is no refusal; None = as `answer`. `key`: the
    order of calls within a batch, the same everywhere. `alone`: never in a batch. `unanswered`: an attempt
    was made in a batch, and may have been written. `longest` (s): the server stops a read that takes
    longer."""

    statement: Function | BatchFunction | Query
    args: tuple[Column, ...]
    answer: Callable[[Rows], T_co]
    key: str = ""
    alone: bool = True
    again: Callable[[Rows], T_co] | None = None
    unanswered: bool = False
    longest: float | None = None

    def if_made_again(self, again: Callable[[Rows], S]) -> Call[T_co | S]:
        """This call, with `again`, whose type is added to that of the answer."""
        wider = cast("Call[T_co | S]", self)
        wider.again = again
        return wider


class Unknown(Enum):
    outcome = "outcome"


OUTCOME_UNKNOWN: Final = Unknown.outcome
"""Instead of an answer: this attempt wrote nothing, but an earlier one, whose answer was lost, may have
written what the operation was to write."""


def nothing(rows: Rows) -> None:
    """The answer of a call that has none."""


def scalar(rows: Rows) -> Column:
    """The one column of the one row."""
    return rows[0][0]
