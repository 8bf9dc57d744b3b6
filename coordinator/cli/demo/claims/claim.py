"""What a claim of the demo is: something to measure, and a check that can fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from coordinator.cli.demo.stage import Stage


class Figures(NamedTuple):
    """`text` for the summary, `measured` for --json (seconds end in `_s`)."""

    text: str
    measured: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """`check` answers what is wrong with the evidence; nothing = the claim holds."""

    name: str
    says: str
    measure: Callable[[Stage], Awaitable[Any]]
    check: Callable[[Any], list[str]]
    figures: Callable[[Any], Figures]
    kills_redis: bool = False
    needs: tuple[str, ...] = ()
    """Modules without which there is nothing to show."""
