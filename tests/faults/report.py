"""The report: Markdown for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from tests.faults.measures import Book, Measure
from tests.faults.schedule import Leg

_SHOWN = 40


def expectations(legs: list[Leg]) -> dict[str, str]:
    return {fault.name: fault.expects for leg in legs for fault in leg.faults}


def kills(book: Book) -> int:
    return sum(count for name, count in book.faults.items() if name.startswith("kill -9"))


def as_json(
    book: Book, legs: list[Leg], *, store: str, seed: int, minutes: float, took: float
) -> dict[str, Any]:
    return {
        "ok": book.ok,
        "store": store,
        "seed": seed,
        "minutes": minutes,
        "took": round(took, 1),
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "faults": dict(sorted(book.faults.items())),
        "kills": kills(book),
        "counts": dict(sorted(book.counts.items())),
        "recovery": [measure.to_json() for measure in book.measures.values()],
        "violations": [{"leg": leg, "what": what} for leg, what in book.violations],
        "skipped": book.skipped,
        "legs": [{"name": leg.name, "settings": leg.settings, "faults": len(leg.faults)} for leg in legs],
    }


def as_markdown(book: Book, legs: list[Leg], *, store: str, seed: int, minutes: float, took: float) -> str:
    expects = expectations(legs)
    lines = [
        f"# Faults on {store}: {'no violation' if book.ok else f'{len(book.violations)} violations'}",
        "",
        f"Seed {seed}, {took / 60:.1f} minutes. {kills(book)} kills, {book.counts['runs']} runs.",
        f"Again: `make faults MINUTES={minutes:g} SEED={seed}"
        + ("`." if store == "sqlite" else f' ARGS="--store {store}"`.'),
        "",
        *(f"**SKIPPED** {what}\n" for what in book.skipped),
        "## Recovery",
        "",
        "| what | times | p50 s | p99 s | max s | bound s | |",
        "|---|--:|--:|--:|--:|--:|---|",
        *(_row(measure) for measure in sorted(book.measures.values(), key=lambda measure: measure.name)),
        "",
        "## Faults",
        "",
        "| fault | times | what must hold |",
        "|---|--:|---|",
        *(f"| {name} | {count} | {expects.get(name, '')} |" for name, count in sorted(book.faults.items())),
        "",
        "## Counted",
        "",
        *(f"* {name}: {count}" for name, count in sorted(book.counts.items())),
        "",
        "## Violations",
        "",
        *([f"* leg `{leg}`: {what}" for leg, what in book.violations[:_SHOWN]] or ["None."]),
        *([f"* and {more} more, in report.json"] if (more := len(book.violations) - _SHOWN) > 0 else []),
    ]
    return "\n".join(lines) + "\n"


def _row(measure: Measure) -> str:
    row = measure.to_json()
    bound = "" if measure.bound is None else f"{measure.bound:g}"
    verdict = "" if measure.bound is None else "ok" if measure.ok else "**too slow**"
    times = " | ".join(f"{row[name]:.3f}" for name in ("p50", "p99", "max"))
    return f"| {measure.name} | {row['count']} | {times} | {bound} | {verdict} |"


def write(
    book: Book, legs: list[Leg], folder: Path, *, store: str, seed: int, minutes: float, took: float
) -> Path:
    """`report.md` and `report.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = as_json(book, legs, store=store, seed=seed, minutes=minutes, took=took)
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    path = folder / "report.md"
    path.write_text(as_markdown(book, legs, store=store, seed=seed, minutes=minutes, took=took))
    return path
