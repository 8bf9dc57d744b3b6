"""Tables and lines on stdout. Colours only on a terminal without NO_COLOR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coordinator.cli.columns import FOLDED, GAP, Cell, Columns
from coordinator.cli.text import document, safe
from stores.json_values import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 1000  # output to other programs is neither truncated nor wrapped


_STYLES = {
    "waiting": "yellow",
    "pending": "yellow",
    "running": "cyan",
    "cancelling": "magenta",
    "rolling back": "magenta",
    "busy": "cyan",
    "idle": "green",
    "success": "green",
    "error": "red",
    "timeout": "red",
    "interrupted": "magenta",
    "live": "green",
    "draining": "yellow",
    "expired": "red",
    "exited": "red",
    "dead": "dim",
    "due": "yellow",
    "delivered": "green",
    "ok": "green",
    "FAILED": "bold red",
    "SKIPPED": "bold yellow",
}
_CODES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36",
    "bold red": "1;31", "bold green": "1;32", "bold yellow": "1;33",
}  # fmt: skip
"""SGR parameters of ECMA-48."""


def console(*, stderr: bool = False) -> Console:
    """A console without markup, emoji codes and highlighting: untrusted text is printed literally."""
    from rich.console import Console

    result = Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=False)
    if not result.is_terminal:
        result.width = _PIPE_WIDTH
    return result


def cell(value: object, style: str | None = None) -> Text:
    """Return an escaped cell; None shows as "-"."""
    from rich.text import Text

    text = "-" if value is None else safe(value)
    return Text(text, style=style or "")


def state(value: object) -> Text:
    """Return a cell with a state in its colour."""
    return cell(value, _STYLES.get(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, terminal: bool) -> Table:
    """Build a rich table. Cells are Text, or other values, which are escaped."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for column in columns:
        # On a narrow terminal free text is wrapped; ids are shown in full, because users copy them.
        result.add_column(column, no_wrap=not terminal or column not in FOLDED, overflow="ellipsis")
    for row in rows:
        result.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return result


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    none: str,
    spare: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print a table, or the line `none` if it has no rows. On a narrow terminal the columns in `spare` are
    omitted, in this order, unless `wide`."""
    out = console()
    if not rows:
        out.print(cell(none))
        return
    room = out.width if out.is_terminal and not wide else None
    result = Columns(columns, [[_plain(value) for value in row] for row in rows], room=room, spare=spare)
    styled = out.is_terminal and not out.no_color and not out.legacy_windows
    text = [_line(result.heading(), styled=styled)]
    if out.is_terminal:
        text.append("─" * result.width)
    text += (_line(line, styled=styled) for line in result.lines())
    print("\n".join(text))


def _plain(value: object) -> Cell:
    from rich.text import Text

    if isinstance(value, Text):
        return Cell(value.plain, str(value.style))
    return Cell("-" if value is None else safe(value))


def _line(cells: Iterable[tuple[Cell, int]], *, styled: bool) -> str:
    gap = " " * GAP
    parts = (_coloured(cell, styled=styled) + " " * blanks for cell, blanks in cells)
    return gap.join(parts).rstrip()


def _coloured(cell: Cell, *, styled: bool) -> str:
    code = _CODES.get(cell.style) if styled and cell.text else None
    return cell.text if code is None else f"\x1b[{code}m{cell.text}\x1b[0m"


def show_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print aligned `name  value` lines; pairs with None are omitted."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if value is not None:
            grid.add_row(cell(name, "dim"), value if isinstance(value, Text) else cell(value))
    console().print(grid)


def show_lines(lines: Iterable[str], *, indent: int = 0) -> None:
    out = console()
    for line in lines:
        out.print(cell(" " * indent + line), soft_wrap=True)


def show_document(value: Json) -> None:
    print(document(value))
