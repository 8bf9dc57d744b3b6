"""A measurement, a table of them for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measure:
    """`target` is what must hold, as text; `holds` None = nothing was promised."""

    bench: str
    what: str
    value: float
    unit: str
    target: str = ""
    holds: bool | None = None
    note: str = ""


def at_least(measure: Measure, bound: float) -> Measure:
    return replace(measure, target=f">= {bound:g}", holds=measure.value >= bound)


def at_most(measure: Measure, bound: float) -> Measure:
    return replace(measure, target=f"<= {bound:g}", holds=measure.value <= bound)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, str]:
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "load": load(),
    }


def load() -> str:
    return f"{os.getloadavg()[0]:.2f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def table(measures: Sequence[Measure]) -> str:
    rows = [("bench", "what", "value", "target", "", "note")]
    for measure in measures:
        mark = {None: "", True: "ok", False: "MISSED"}[measure.holds]
        value = f"{measure.value:,.3g}" if measure.value < 100 else f"{measure.value:,.0f}"
        shown = f"{value} {measure.unit}"
        rows.append((measure.bench, measure.what, shown, measure.target, mark, measure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def document(measures: Sequence[Measure]) -> str:
    return json.dumps({"machine": machine(), "measures": [asdict(measure) for measure in measures]}, indent=2)
