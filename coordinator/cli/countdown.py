"""How long something may still take, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from coordinator.cli import screen
from coordinator.cli.failures import note
from coordinator.cli.text import safe, span

_EVERY = 5.0  # s; between plain lines


@contextmanager
def countdown(what: str, longest: float) -> Generator[Callable[[float], None]]:
    """Yields what is told the seconds that are left."""
    out = screen.console(stderr=True)
    if not out.is_terminal:
        yield _lines(what, longest)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        bar = progress.add_task(safe(what), total=longest)
        yield lambda left: progress.update(bar, completed=longest - left)


def _lines(what: str, longest: float) -> Callable[[float], None]:
    note(f"{what}, for at most {span(longest)}")
    due = longest - _EVERY

    def left(seconds: float) -> None:
        nonlocal due
        if seconds <= due:
            due = seconds - _EVERY
            note(f"{span(seconds)} left")

    return left
