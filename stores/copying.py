"""Copies a deployment from a SQLite file to PostgreSQL, and compares every row after the copy."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stores.errors import StoreRefused
from stores.group_commit import wall_clock
from stores.postgres import PostgresStore
from stores.sql.columns import Columns
from stores.sql.postgres.copying import Target
from stores.sql.sqlite.copying import Source
from stores.sql.tables import TABLES, Table

_PAGE = 500  # rows


class Copied(NamedTuple):
    table: str
    rows: int
    there_before: int
    """Number of these rows that an earlier attempt had copied."""
    sha256: str
    """Digest of all rows in the order of their keys, which is the same on both sides."""


class Progress(NamedTuple):
    doing: str  # copy | compare
    table: str
    rows: int
    of: int


Report = Callable[[Progress], None]


async def copy(path: Path, target: PostgresStore, report: Report = lambda _: None) -> list[Copied]:
    """Copies into an empty schema, or resumes an earlier attempt. `target` must not be open.

    No worker may use either store meanwhile: StoreRefused is raised if a worker of the source is live, or the
    source was written to. The target cannot be opened before all rows are copied and compared. Raises
    StoreRefused, StoreUnavailable.
    """
    source = await asyncio.to_thread(Source, path)
    with source:
        if live := source.live_workers(wall_clock()):
            raise StoreRefused(
                f"{len(live)} workers of {path} are live (epochs {', '.join(map(str, live[:5]))}): stop them;"
                " the lease of a killed worker has to expire first"
            )
        counts = await asyncio.to_thread(source.counts)
        async with target.connection() as cx:
            into = Target(cx, target.schema)
            await into.begin(source.name, {table.name: source.columns(table) for table in TABLES})
            before = [await _fill(table, source, into, counts[table.name], report) for table in TABLES]
            sums = [await _compare(table, source, into, counts[table.name], report) for table in TABLES]
            await asyncio.to_thread(source.check_untouched)
            await into.finish()
    return [
        Copied(table.name, counts[table.name], copied_before, digest)
        for table, copied_before, digest in zip(TABLES, before, sums, strict=True)
    ]


async def _fill(table: Table, source: Source, into: Target, of: int, report: Report) -> int:
    copied_before = rows = await into.count(table)
    after: Columns | None = await into.last_key(table)
    key = [source.columns(table).index(name) for name in table.key]
    while page := await asyncio.to_thread(source.page, table, after, _PAGE):
        await into.write(table, [into.converted(table, row) for row in page])
        after = [page[-1][at] for at in key]
        rows += len(page)
        report(Progress("copy", table.name, rows, of))
    return copied_before


async def _compare(table: Table, source: Source, into: Target, of: int, report: Report) -> str:
    """Returns the digest of all rows. Raises StoreRefused at the first row that differs."""
    digest, rows = hashlib.sha256(), 0
    key = [source.columns(table).index(name) for name in table.key]
    source_after: Columns | None = None
    target_after: Columns | None = None
    while True:
        page = await asyncio.to_thread(source.page, table, source_after, _PAGE)
        target_rows = await into.page(table, target_after, _PAGE)
        source_rows = [into.converted(table, row) for row in page]
        if source_rows != target_rows:
            raise StoreRefused(_difference(table, source_rows, target_rows, key))
        if not page:
            return digest.hexdigest()
        for row in target_rows:
            digest.update(repr(row).encode("utf-8", "backslashreplace"))
        source_after = [page[-1][at] for at in key]
        target_after = [target_rows[-1][at] for at in key]
        rows += len(page)
        report(Progress("compare", table.name, rows, of))


def _difference(
    table: Table, source_rows: Sequence[Columns], target_rows: Sequence[Columns], key: list[int]
) -> str:
    pairs = zip(source_rows, target_rows, strict=False)
    first = next((source_row for source_row, target_row in pairs if source_row != target_row), None)
    longer = max(source_rows, target_rows, key=len)
    row = first or longer[min(len(source_rows), len(target_rows))]
    key_text = ", ".join(repr(row[at]) for at in key)
    return (
        f"{table.name} ({key_text}) differs between the source and the target: the source has changed since"
        " the copy began. Drop the target's schema and copy again"
    )
