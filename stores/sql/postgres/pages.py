"""Pages that end at a number of bytes: the rows behind stay on the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from stores.pages import Page
from stores.sql.columns import Column
from stores.sql.postgres.calls import Rows
from stores.sql.readable import readable

Row = TypeVar("Row")


def sizes(texts: Sequence[str], order: str) -> str:
    """Three columns for `within`, over the rows of a page in its order. The server determines the length of a
    large text without reading it."""
    size = " + ".join(f"COALESCE(octet_length({text}), 0)" for text in texts)
    return (
        f"row_number() OVER (ORDER BY {order}) AS place, sum({size}) OVER (ORDER BY {order} ROWS UNBOUNDED"
        " PRECEDING) AS bytes, count(*) OVER () AS total"
    )


def within(parameter: str) -> str:
    """The condition that a row is a part of the page, whose bytes the parameter bounds; null = unbounded."""
    return f"(place = 1 OR {parameter}::bigint IS NULL OR bytes <= {parameter}::bigint)"


def page(what: str, rows: Rows, read: Callable[[Column], Row]) -> Page[Row]:
    """Map rows whose last column is `total`: the number of rows of the page without its bound."""
    result = Page(readable(what, (row[:-1] for row in rows), read))
    result.cut = bool(rows) and rows[0][-1] > len(rows)
    return result
