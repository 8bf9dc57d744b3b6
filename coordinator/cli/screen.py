"""Tables and lines on stdout. Colours only on a terminal and without NO_COLOR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coordinator.cli.columns import FOLDED, GAP, Cell, Columns
from coordinator.cli.text import document, safe

if TYPE_CHECKING:
    from typing import Any

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 1000  # nothing is cut or wrapped that another program will read


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
    "gone": "red",
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
    """Markup, emoji codes and highlighting are off: what is printed is text, never instructions."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    return made


def cell(value: object, style: str | None = None) -> Text:
    """A safe cell; words that the coordinator itself uses for states are coloured."""
    from rich.text import Text

    text = "-" if value is None else safe(value)
    return Text(text, style=style or "")


def state(value: object) -> Text:
    """A cell for a state of the coordinator's own vocabulary, in its colour."""
    return cell(value, _STYLES.get(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, terminal: bool) -> Table:
    """`rows` hold Text (kept) or anything else (made a safe cell)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for column in columns:
        # On a narrow terminal free text wraps; ids stay whole, because people copy them.
        made.add_column(column, no_wrap=not terminal or column not in FOLDED, overflow="ellipsis")
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return made


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    none: str,
    spare: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print a table, or the line `none` where it would have no rows. On a terminal that is too narrow
    the columns in `spare` are left out, the first of them first, unless `wide`."""
    out = console()
    if not rows:
        out.print(cell(none))
        return
    room = out.width if out.is_terminal and not wide else None
    made = Columns(columns, [[_plain(value) for value in row] for row in rows], room=room, spare=spare)
    styled = out.is_terminal and not out.no_color and not out.legacy_windows
    text = [_line(made.heading(), styled=styled)]
    if out.is_terminal:
        text.append("─" * made.width)
    text += (_line(line, styled=styled) for line in made.lines())
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
    """Print `name  value` lines, aligned; pairs without a value are left out."""
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


def show_document(value: Any) -> None:
    print(document(value))
