"""What was asked of `serve` or `dev`, and how it is handed over to a process that has nothing else loaded.

A supervisor lives as long as its workers and does little. What the command line needs for its options is more
than half of what it would hold in memory, so it makes room: the same process, with a fresh interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn

_VARIABLE = "COORDINATOR_SERVE_ASKED"


@dataclass(frozen=True, slots=True)
class Asked:
    """The options. None = the environment or the default, which the worker looks up."""

    host: str
    port: int
    workers: int
    store: str | None
    redis: str | None
    assistants: str | None
    log_format: Literal["text", "json"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    gateway: dict[str, Any] = field(default_factory=dict[str, Any])
    develops: bool = False
    watched: list[str] = field(default_factory=list[str])
    """Folders whose Python files are looked at for changes."""


def hand_over(asked: Asked) -> NoReturn:
    """Go on as `python -m coordinator.cli.serve`. In the environment, which nobody else may read, for URLs
    hold passwords."""
    os.environ[_VARIABLE] = json.dumps(asdict(asked))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "coordinator.cli.serve"])  # noqa: S606 - this very interpreter


def take_over() -> Asked:
    """In the process that goes on. Its workers do not inherit it."""
    return Asked(**json.loads(os.environ.pop(_VARIABLE)))
