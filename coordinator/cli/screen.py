"""Tables and lines on stdout. Colours only on a terminal and without NO_COLOR."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coordinator.cli.text import document, safe

if TYPE_CHECKING:
    from typing import Any

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 1000  # nothing is cut or wrapped that another program will read

_GAP = 3  # between two columns
_FREE_TEXT = frozenset({"ERROR", "WHY", "CLAIM", "MEASURED", "WHAT", "WORKER"})

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
        made.add_column(column, no_wrap=not terminal or column not in _FREE_TEXT, overflow="ellipsis")
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return made


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, none: str, spare: Sequence[str] = ()
) -> None:
    """Print a table, or the line `none` where it would have no rows. On a terminal that is too narrow
    the columns in `spare` are left out, the first of them first."""
    out = console()
    if not rows:
        out.print(cell(none))
        return
    shown = list(columns)
    if out.is_terminal:
        widths = {
            name: max(len(name), *(len(str(row[index])) for row in rows)) + _GAP
            for index, name in enumerate(columns)
        }
        for name in spare:
            if sum(widths[column] for column in shown) > out.width:
                shown.remove(name)
    picked = [columns.index(name) for name in shown]
    out.print(table(shown, [[row[index] for index in picked] for row in rows], terminal=out.is_terminal))


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
