"""Pages of lists, bounded in rows and in bytes by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row")


class Page(list[Row]):
    """Rows of a list, in order."""

    cut = False
    """Whether the page ended because of its size in bytes; the next page begins after its last row."""


class Cutter:
    """Passes rows on until their texts in `columns` have `max_bytes` in total (None = no limit), but at least
    one row."""

    def __init__(self, max_bytes: int | None, columns: Sequence[int]) -> None:
        self._left, self._columns = max_bytes, columns
        self._empty = True
        self.cut = False

    def rows(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:  # Any: columns of any type
        for row in rows:
            if self._left is not None:
                self._left -= sum(len(row[column] or "") for column in self._columns)
                if self._left < 0 and not self._empty:
                    self.cut = True
                    return
            self._empty = False
            yield row

    def page(self, rows: Iterable[Row]) -> Page[Row]:
        """Returns a page of the (decoded) rows that were passed on."""
        page = Page(rows)
        page.cut = self.cut
        return page
