"""Layout of text tables: column widths, omitted, truncated and wrapped columns. Fast for thousands of
rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

CUT = frozenset({"ASSISTANT", "ERROR", "METADATA", "TO"})
"""Columns that are truncated on a narrow terminal; other commands show the full text."""
FOLDED = frozenset({"WHY", "CLAIM", "MEASURED", "WHAT", "WORKER"})
"""Columns that are wrapped. All others are shown in full, because users copy ids."""
_MIN_WIDTH = 10
GAP = 2


class Cell(NamedTuple):
    text: str
    style: str = ""


def width_of(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


class Columns:
    """Fits columns into `room` characters; None = unlimited. Columns in `spare` are omitted, in this order,
    until the others fit."""

    def __init__(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        room: int | None,
        spare: Sequence[str] = (),
    ) -> None:
        self._names, self._rows = names, rows
        self._widths = {name: self._natural(index) for index, name in enumerate(names)}
        if room is not None:
            self._fit(room, spare)
        self.shown = list(self._widths)

    def _natural(self, index: int) -> int:
        return max(len(self._names[index]), *(width_of(row[index].text) for row in self._rows))

    def _fit(self, room: int, spare: Sequence[str]) -> None:
        widths = self._widths
        minimum = {
            name: min(width, max(_MIN_WIDTH, len(name))) if name in CUT | FOLDED else width
            for name, width in widths.items()
        }
        for name in spare:
            if sum(minimum[name] + GAP for name in widths) - GAP > room:
                del widths[name]
        remaining = room + GAP - sum(minimum[name] + GAP for name in widths)
        for name in widths:
            extra = min(widths[name] - minimum[name], max(0, remaining))
            widths[name] = minimum[name] + extra
            remaining -= extra

    @property
    def width(self) -> int:
        return sum(self._widths.values()) + GAP * (len(self._widths) - 1)

    def heading(self) -> list[tuple[Cell, int]]:
        return [(Cell(name, "bold"), width - len(name)) for name, width in self._widths.items()]

    def lines(self) -> Iterator[list[tuple[Cell, int]]]:
        """Yield each line as cells with the number of blanks to append."""
        places = [self._names.index(name) for name in self.shown]
        widths = [self._widths[name] for name in self.shown]
        for row in self._rows:
            cells = [row[index] for index in places]
            if all(width_of(cell.text) <= width for cell, width in zip(cells, widths, strict=True)):
                yield [(cell, width - width_of(cell.text)) for cell, width in zip(cells, widths, strict=True)]
            else:
                yield from self._wrapped(cells, widths)

    def _wrapped(self, cells: Sequence[Cell], widths: Sequence[int]) -> Iterator[list[tuple[Cell, int]]]:
        parts = [
            _folded(cell, width) if name in FOLDED else [_cut(cell, width)]
            for name, cell, width in zip(self.shown, cells, widths, strict=True)
        ]
        for index in range(max(map(len, parts))):
            line = [part[index] if index < len(part) else Cell("") for part in parts]
            yield [
                (cell, max(0, width - width_of(cell.text))) for cell, width in zip(line, widths, strict=True)
            ]


def _cut(cell: Cell, width: int) -> Cell:
    if width_of(cell.text) <= width:
        return cell
    if cell.text.isascii():
        return Cell(f"{cell.text[: width - 1]}…", cell.style)
    from rich.cells import set_cell_size

    return Cell(f"{set_cell_size(cell.text, width - 1)}…", cell.style)


def _folded(cell: Cell, width: int) -> list[Cell]:
    return [Cell(part, cell.style) for part in _parts(cell.text, width)] or [Cell("")]


def _parts(text: str, width: int) -> Iterable[str]:
    if text.isascii():
        return textwrap.wrap(text, width)
    from rich.cells import chop_cells

    return chop_cells(text, width)
