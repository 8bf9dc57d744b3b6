"""Options of `serve` and `dev`, and their handover to a fresh interpreter.

The command line imports more than half of the memory that a supervisor would hold, and a supervisor lives as
long as its workers. Therefore the process replaces itself with a fresh interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Literal, NoReturn

from stores.json_values import JsonObject

_VARIABLE = "COORDINATOR_SERVE_OPTIONS"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of `serve` and `dev`. None = the worker resolves it from the environment or the default."""

    host: str
    port: int
    workers: int
    store: str | None
    redis: str | None
    assistants: str | None
    log_format: Literal["text", "json"]
    settings: JsonObject = field(default_factory=JsonObject)
    gateway: JsonObject = field(default_factory=JsonObject)
    development: bool = False
    watched_folders: list[str] = field(default_factory=list[str])
    """Folders whose Python files are watched for changes."""


def exec_supervisor(options: ServeOptions) -> NoReturn:
    """Replace this process by `python -m coordinator.cli.serve`. Options are passed in the environment, which
    other users cannot read, because URLs contain passwords."""
    os.environ[_VARIABLE] = json.dumps(asdict(options))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "coordinator.cli.serve"])  # noqa: S606 - the same interpreter


def options_from_environment() -> ServeOptions:
    """Read the options in the new process, and remove them from the environment of its workers."""
    return ServeOptions(**json.loads(os.environ.pop(_VARIABLE)))
