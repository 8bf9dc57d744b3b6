"""Reduces the start time of a worker, nine tenths of which are imports.

The starting tricks of the package, and what each saves (docs/adr/0075): names of `coordinator` and of
`coordinator.gateway` are imported on first access (450 ms of every command), routes and models are built on
first access (`gateway.lazy`, 150 ms), the first worker is spawned before the options are read (`spawning`,
700 ms of the time until it listens). A trick that saves less than 100 ms is not worth its place.
"""

from __future__ import annotations

import gc
from importlib import import_module


def start() -> None:
    """Imports what every worker needs, while the supervisor prepares its orders. Called before all else."""
    for name in ("coordinator.bootstrap", "coordinator.gateway.app", "coordinator.gateway.server.serving"):
        import_module(name)


def started() -> None:
    """Excludes the objects that exist by now from garbage collection. They are permanent, and a full
    collection of them blocks the event loop for tens of milliseconds."""
    gc.freeze()
