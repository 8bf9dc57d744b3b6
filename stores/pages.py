"""Pages of lists: bounded in number by those who ask, and in bytes by them as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row")


class Page(list[Row]):
    """Rows of a list, in order."""

    cut = False
    """It ended because of its bytes: the next page begins behind its last row."""


class Cutter:
    """Lets rows through until their texts in `columns` have `max_bytes` together (None = all of them), but
    one at least."""

    def __init__(self, max_bytes: int | None, columns: Sequence[int]) -> None:
        self._left, self._columns = max_bytes, columns
        self._empty = True
        self.cut = False

    def rows(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        for row in rows:
            if self._left is not None:
                self._left -= sum(len(row[column] or "") for column in self._columns)
                if self._left < 0 and not self._empty:
                    self.cut = True
                    return
            self._empty = False
            yield row

    def page(self, rows: Iterable[Row]) -> Page[Row]:
        """Of what has become of the rows that were let through."""
        page = Page(rows)
        page.cut = self.cut
        return page
