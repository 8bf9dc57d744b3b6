"""Two engines as one store: every call is made on both, and both have to answer the same.

So a suite over it shows more than its own assertions: every answer of the second engine equals that of the
first one in every field, and at the end both have the same rows and the same audit.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from stores.errors import CoordinatorError
from stores.memory import MemoryStore
from stores.postgres import PostgresStore
from stores.pruning import PruneStep
from stores.rows import Admission, Decision, Finish, Orphan, Tick, Transition, WorkerRow
from stores.sql.codec import dumps
from stores.sql.postgres.codec import plain
from stores.sql.tables import TABLES, Table
from tests.support.inside_stores import connection_of

UNORDERED = frozenset({"drain", "expire_threads", "claim_webhooks", "revive_webhooks", "stop_webhooks"})
"""Calls that answer a set: one statement returns in no order the rows that it has changed."""
ITS_OWN = frozenset({("workers", "proof"), ("transitions", "id"), ("runs", "rollback_ref")})
"""Columns that are an engine's own: the proof that a worker is dead, the numbers of rows, and the encoding
of the values that a run's first save keeps. Those values are compared by calls of the port."""
_ALL = 1 << 30


class TwinStore:
    """PostgreSQL is `tested` and answers; `reference` (SQLite's statements, in memory) has to agree."""

    durable = True
    shared = True

    def __init__(self, tested: PostgresStore, reference: MemoryStore) -> None:
        self.tested, self.reference, self.url = tested, reference, tested.url
        self.one_at_a_time = asyncio.Lock()
        """Both see calls that are made at once in the same order."""
        self._parted = False

    async def open(self) -> None:
        await self.tested.open()

    async def aclose(self) -> None:
        await self.tested.aclose()

    def proven_dead(self, peer: WorkerRow) -> bool:
        return self.tested.proven_dead(peer)

    def proven_alive(self, peer: WorkerRow) -> bool:
        return self.tested.proven_alive(peer)

    async def agrees(self, name: str, args: Any, kwargs: Any, mine: Any, error: Exception | None) -> None:
        """Make the call on the reference, which has to answer what `tested` has answered."""
        its, its_error = await answer_of(self.reference, name, args, kwargs)
        assert refusal(error) == refusal(its_error), (name, args, mine, its, error, its_error)
        if error is None:
            answer, expected = comparable(name, mine), comparable(name, its)
            assert answer == expected, f"{name}{args}: {answer}, the reference {expected}"

    def parted(self) -> PostgresStore:
        """The tested one alone, for what would take too long twice."""
        self._parted = True
        return self.tested

    async def compare_tables(self) -> None:
        """Row for row: the audit of each thread in its order, and all that is left."""
        if self._parted:
            return
        with suppress(ValueError):  # both raise it if a test has damaged a row
            await cast("Any", self).runs(limit=_ALL)
        async with self.tested.connection() as cx:
            for table in TABLES:
                names = self._columns(table)
                listed = _listed(table, names)
                there = await cx.fetch(listed.replace(" FROM ", f" FROM {self.tested.schema}."))
                mine = [tuple(map(_as_in_sqlite, names, row)) for row in there]
                _compare_rows(table, names, mine, connection_of(self.reference).execute(listed).fetchall())

    def _columns(self, table: Table) -> tuple[str, ...]:
        return columns_of(connection_of(self.reference), table)


def columns_of(cx: sqlite3.Connection, table: Table) -> tuple[str, ...]:
    return tuple(name for _, name, *_ in cx.execute(f"PRAGMA table_info({table.name})"))


def compare_files(path: Path, reference: MemoryStore) -> None:
    """Raises AssertionError where a table of the file has not the rows of the reference."""
    with closing(sqlite3.connect(path)) as cx:
        for table in TABLES:
            names = columns_of(cx, table)
            listed = _listed(table, names)
            rows, expected = (one.execute(listed).fetchall() for one in (cx, connection_of(reference)))
            _compare_rows(table, names, rows, expected)


def _listed(table: Table, names: tuple[str, ...]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"SELECT {quoted} FROM {table.name} ORDER BY {', '.join(table.key)}"


def _as_in_sqlite(name: str, value: Any) -> Any:
    if name == "run" and value is not None:
        return dumps({field: plain(part) for field, part in json.loads(value).items()})
    if name == "metadata" and isinstance(value, str) and not value.isascii():
        return dumps(json.loads(value))  # where it merges keys, it writes them as they are, not escaped
    return dumps(value) if isinstance(value, list) else plain(value)


def _compare_rows(table: Table, names: tuple[str, ...], mine: list[Any], its: list[Any]) -> None:
    tested, expected = (
        [dict(_comparable_columns(table, zip(names, row, strict=True))) for row in rows]
        for rows in (mine, its)
    )
    if table.name == "transitions":  # one transaction may end several runs, in no order
        tested.sort(key=_place)
        expected.sort(key=_place)
    for one, other in zip_longest(tested, expected):
        if one != other:
            first = one or other or {}
            key = [first.get(name) for name in table.key]
            columns = {
                name: (one and one[name], other and other[name])
                for name in first
                if one is None or other is None or one[name] != other[name]
            }
            raise AssertionError(f"{table.name} {key}: what it has, what the reference has: {columns}")


def _place(line: dict[str, Any]) -> Any:
    return line["thread_id"], line["at"], line["run_id"]


def _comparable_columns(table: Table, row: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for name, value in row:
        if (table.name, name) == ("webhooks", "run"):  # put together by the engine: no client wrote it
            yield name, None if value is None else json.loads(value)
        elif (table.name, name) not in ITS_OWN:
            yield name, value


def comparable(name: str, answer: Any) -> Any:  # noqa: PLR0911 - one case for each kind of answer
    """What of an answer is the same on every engine."""
    if name in ("sweep", "retire"):
        orphans = [
            replace(orphan, children=tuple(sorted(orphan.children)))
            for orphan in cast("list[Orphan]", answer)
        ]
        return sorted(orphans, key=repr)
    if name in UNORDERED:
        return sorted(answer, key=repr)
    if name == "workers":
        return [replace(row, proof=None) for row in cast("list[WorkerRow]", answer)]
    if name == "tick":
        tick = cast("Tick", answer)
        listed = ("cancelled", "waiting", "free_threads", "overdue")
        return [sorted(getattr(tick, field)) for field in listed] + [tick.drain, tick.not_held]
    if isinstance(answer, Finish):
        return answer._replace(decision=answer.decision and _with_children_in_order(answer.decision))
    if isinstance(answer, Admission):
        return answer._replace(replaced=tuple(map(_with_children_in_order, answer.replaced)))
    if isinstance(answer, Decision):
        return _with_children_in_order(answer)
    if name == "transitions":
        return [replace(row, id=0) for row in cast("list[Transition]", answer)]
    if isinstance(answer, PruneStep) and answer.cursor is not None:
        return answer._replace(cursor=answer.cursor._replace(id=0))
    return answer


def _with_children_in_order(decision: Decision) -> Decision:
    return decision._replace(children=tuple(sorted(decision.children)))


def refusal(error: Exception | None) -> Any:
    """What of an error is the same on every engine."""
    return type(error), str(error) if isinstance(error, CoordinatorError) else ""


async def answer_of(store: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return await getattr(store, name)(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - the answers are compared, failures too
        return None, error


def _twin(name: str) -> Any:
    async def both(self: TwinStore, *args: Any, **kwargs: Any) -> Any:
        async with self.one_at_a_time:
            mine, error = await answer_of(self.tested, name, args, kwargs)
            await self.agrees(name, args, kwargs, mine, error)
        if error is not None:
            raise error
        return mine

    return both


for _name, _method in inspect.getmembers(MemoryStore, inspect.iscoroutinefunction):
    if not _name.startswith("_") and not hasattr(TwinStore, _name):
        setattr(TwinStore, _name, _twin(_name))
