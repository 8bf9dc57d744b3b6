"""Runs many sequences over one PostgreSQL and collects the kinds of differences between the engines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.differential.engines import Difference, engines
from tests.differential.sequence import Sequence
from tests.support.builders import StoreClock
from tests.support.postgres import Database

FILE_EVERY = 6
"""One sequence in `FILE_EVERY` also runs on a SQLite file. The memory store executes the same statements."""


@dataclass
class Report:
    sequences: int = 0
    called: Counter[str] = field(default_factory=Counter[str])
    failures: dict[Any, tuple[int, str]] = field(default_factory=dict[Any, tuple[int, str]])
    """By kind: the first seed that showed the difference, and its text."""
    counts: Counter[Any] = field(default_factory=Counter[Any])
    seconds: float = 0.0

    def note(self, seed: int, kind: Any, what: str) -> None:
        self.counts[kind] += 1
        self.failures.setdefault(kind, (seed, what))


async def compare(
    database: Database,
    seeds: Iterable[int],
    *,
    steps: int,
    until_first: bool = False,
    on_progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """`until_first`: stop after the first sequence that shows a difference."""
    report, began = Report(), time.monotonic()
    for seed in seeds:
        clock = StoreClock()
        try:
            async with engines(database, clock, file=seed % FILE_EVERY == 0) as stores:
                try:
                    await Sequence(seed, stores, clock).run(steps)
                finally:
                    report.called.update(stores.called)
        except Difference as difference:
            report.note(seed, difference.signature, str(difference))
        except AssertionError as difference:
            report.note(seed, ("tables", str(difference)[:60]), str(difference))
        report.sequences += 1
        report.seconds = time.monotonic() - began
        on_progress(report)
        if until_first and report.failures:
            break
    return report
