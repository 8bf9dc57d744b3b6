"""Numbers that the claims measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordinator.cli.text import span


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was measured, never one in between. NaN where nothing was."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def seconds(earlier: int, later: int) -> float:
    """Between two moments of CLOCK_MONOTONIC in nanoseconds."""
    return (later - earlier) / 1e9


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """As JSON: count, p50, p95 and max, in seconds."""
    return {
        "count": len(values),
        "p50_s": percentile(values, 0.5),
        "p95_s": percentile(values, 0.95),
        "max_s": percentile(values, 1.0),
    }


def say_spread(values: Sequence[float]) -> str:
    return f"p50 {span(percentile(values, 0.5))}, p95 {span(percentile(values, 0.95))}"
