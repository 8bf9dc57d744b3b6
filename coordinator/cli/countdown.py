"""Remaining time on stderr: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from coordinator.cli import screen
from coordinator.cli.failures import note
from coordinator.cli.text import safe, span

_INTERVAL = 5.0  # s; between plain lines


@contextmanager
def countdown(what: str, longest: float) -> Generator[Callable[[float], None]]:
    """Yield a function to call with the remaining time (s). `longest` (s)."""
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
    due = longest - _INTERVAL

    def report(seconds: float) -> None:
        nonlocal due
        if seconds <= due:
            due = seconds - _INTERVAL
            note(f"{span(seconds)} left")

    return report
