"""All checks of one history."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.testing.history.audit import Audit
from coordinator.testing.history.findings import Report
from coordinator.testing.history.lines import Line, in_order


def check(
    lines: Iterable[Line], audit: Audit | None = None, *, bound: float = 10.0, budget: float = 5.0
) -> Report:
    """`bound` (s): everything is settled so long after the last fault. `budget` (s): for the search of
    one thread; a thread that is not decided within it is a finding."""
    history = in_order(lines)
    return Report((), {"lines": len(history)})
