"""Move a deployment from a file to a server: all of its rows, each looked at again when all are there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stores.errors import StoreRefused
from stores.group_commit import wall_clock
from stores.postgres import PostgresStore
from stores.sql.postgres.copying import Target
from stores.sql.sqlite.copying import Source
from stores.sql.tables import TABLES, Table

_PAGE = 500  # rows


class Copied(NamedTuple):
    table: str
    rows: int
    there_before: int
    """Of them, how many an earlier attempt had copied."""
    sha256: str
    """Of all rows in the order of their keys, as they are on both sides."""


class Progress(NamedTuple):
    doing: str  # copy | compare
    table: str
    rows: int
    of: int


Tell = Callable[[Progress], None]


async def copy(path: Path, target: PostgresStore, tell: Tell = lambda _: None) -> list[Copied]:
    """Into an empty schema, or one that an earlier attempt has left half full. `target` is not open.

    Nobody works on either while it lasts: refused where a worker of the source lives, or has written
    meanwhile; no store opens the target before all is there and equal. Raises StoreRefused, StoreUnavailable.
    """
    source = await asyncio.to_thread(Source, path)
    with source:
        if live := source.live_workers(wall_clock()):
            raise StoreRefused(
                f"{len(live)} workers live on {path} (epochs {', '.join(map(str, live[:5]))}): stop them;"
                " of a killed one the lease has to run out"
            )
        counts = await asyncio.to_thread(source.counts)
        async with target.connection() as cx:
            into = Target(cx, target.schema)
            await into.begin(source.name, {table.name: source.columns(table) for table in TABLES})
            before = [await _fill(table, source, into, counts[table.name], tell) for table in TABLES]
            sums = [await _compare(table, source, into, counts[table.name], tell) for table in TABLES]
            await asyncio.to_thread(source.check_untouched)
            await into.finish()
    return [
        Copied(table.name, counts[table.name], there, digest)
        for table, there, digest in zip(TABLES, before, sums, strict=True)
    ]


async def _fill(table: Table, source: Source, into: Target, of: int, tell: Tell) -> int:
    there = rows = await into.count(table)
    after: Sequence[Any] | None = await into.last_key(table)
    key = [source.columns(table).index(name) for name in table.key]
    while page := await asyncio.to_thread(source.page, table, after, _PAGE):
        await into.write(table, [into.converted(table, row) for row in page])
        after = [page[-1][at] for at in key]
        rows += len(page)
        tell(Progress("copy", table.name, rows, of))
    return there


async def _compare(table: Table, source: Source, into: Target, of: int, tell: Tell) -> str:
    """Raises StoreRefused at the first row that is not the same on both sides."""
    digest, rows = hashlib.sha256(), 0
    key = [source.columns(table).index(name) for name in table.key]
    after: Sequence[Any] | None = None
    there: Sequence[Any] | None = None
    while True:
        page = await asyncio.to_thread(source.page, table, after, _PAGE)
        theirs = await into.page(table, there, _PAGE)
        ours = [into.converted(table, row) for row in page]
        if ours != theirs:
            raise StoreRefused(_difference(table, ours, theirs, key))
        if not page:
            return digest.hexdigest()
        for row in theirs:
            digest.update(repr(row).encode("utf-8", "backslashreplace"))
        after, there = [page[-1][at] for at in key], [theirs[-1][at] for at in key]
        rows += len(page)
        tell(Progress("compare", table.name, rows, of))


def _difference(table: Table, ours: list[Any], theirs: list[Any], key: list[int]) -> str:
    pairs = zip(ours, theirs, strict=False)
    first = next((one for one, other in pairs if one != other), None)
    longer = max(ours, theirs, key=len)
    row = first or longer[min(len(ours), len(theirs))]
    named = ", ".join(repr(row[at]) for at in key)
    return (
        f"{table.name} ({named}) is not the same on both sides: the source has changed since the copy began."
        " Drop the target's schema and copy again"
    )
