"""What the demo found, as one JSON document.

{"ok", "seconds", "setup_seconds", "redis": {"own", "version"}, "store", "workers",
 "claims": [{"number", "name", "claim", "ok", "skipped", "problems", "seconds", "text", "measured"}, …]}

`ok` of a claim is null where it was skipped, and then `skipped` says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

SQLITE = "SQLite"


@dataclass(frozen=True, slots=True)
class Result:
    number: int
    name: str
    says: str
    seconds: float = 0.0
    text: str = ""
    problems: tuple[str, ...] = ()
    skipped: str | None = None
    measured: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def verdict(self) -> str:
        if self.skipped is not None:
            return "SKIPPED"
        return "FAILED" if self.problems else "ok"

    @property
    def outcome(self) -> str:
        """What was measured, or why there is nothing to say for it."""
        if self.skipped is not None:
            return self.skipped
        for first in self.problems:
            others = len(self.problems) - 1
            return f"{first} (and {others} more)" if others else first
        return self.text

    def document(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "name": self.name,
            "claim": self.says,
            "ok": None if self.skipped is not None else not self.problems,
            "skipped": self.skipped,
            "problems": list(self.problems),
            "seconds": round(self.seconds, 3),
            "text": self.text,
            "measured": _rounded(self.measured),
        }


@dataclass(frozen=True, slots=True)
class Report:
    results: tuple[Result, ...]
    seconds: float
    setup_seconds: float
    own_redis: bool
    redis_version: str | None
    workers: int
    store: str = SQLITE

    @property
    def ok(self) -> bool:
        return bool(self.results) and not any(result.problems for result in self.results)

    def document(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "setup_seconds": round(self.setup_seconds, 3),
            "redis": {"own": self.own_redis, "version": self.redis_version},
            "store": self.store,
            "workers": self.workers,
            "claims": [result.document() for result in self.results],
        }


def _rounded(value: Any) -> Any:
    """Microseconds are enough; JSON has no NaN."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
