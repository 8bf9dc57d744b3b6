"""Counts of faults, recovery times, and violations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Returns one of the values, by the nearest rank; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(slots=True)
class Measure:
    """Recovery times (s) of one kind. `bound` is for the 99th percentile."""

    name: str
    bound: float | None
    times: list[float] = field(default_factory=list[float])

    @property
    def ok(self) -> bool:
        return self.bound is None or percentile(self.times, 0.99) <= self.bound

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "count": len(self.times),
            "p50": round(percentile(self.times, 0.5), 4),
            "p99": round(percentile(self.times, 0.99), 4),
            "max": round(max(self.times, default=0.0), 4),
            "bound": self.bound,
            "ok": self.ok,
        }


@dataclass(slots=True)
class Book:
    """The content of the report. `violations` are pairs of a leg and a text."""

    faults: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    measures: dict[str, Measure] = field(default_factory=dict[str, Measure])
    violations: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    skipped: list[str] = field(default_factory=list[str])

    def measure(self, name: str, seconds: float, bound: float | None = None) -> None:
        self.measures.setdefault(name, Measure(name, bound)).times.append(seconds)

    @property
    def ok(self) -> bool:
        return not self.violations and all(measure.ok for measure in self.measures.values())
