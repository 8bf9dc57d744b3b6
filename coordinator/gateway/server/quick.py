"""Reduces the start time of a worker, nine tenths of which are imports, and its garbage collections.

The starting tricks of the package, and what each saves (docs/adr/0075): names of `coordinator` and of
`coordinator.gateway` are imported on first access (450 ms of every command), routes and models are built on
first access (`gateway.lazy`, 150 ms), the first worker is spawned before the options are read (`spawning`,
700 ms of the time until it listens). A trick that saves less than 100 ms is not worth its place.
"""

from __future__ import annotations

import gc
from importlib import import_module

_DEFAULT = gc.get_threshold()
"""Python's own: this module is imported before the user's."""
_COLLECT_AFTER = 10_000
"""Objects. With Python's 700 a worker at full load collects 110 times in 1,000 runs, which is 7 % of its
processor time, and finds nothing: a run leaves no reference cycles (measured with `gc.callbacks`)."""


def start() -> None:
    """Imports what every worker needs, while the supervisor prepares its orders. Called before all else."""
    for name in ("coordinator.bootstrap", "coordinator.gateway.app", "coordinator.gateway.server.serving"):
        import_module(name)


def started() -> None:
    """Excludes the objects that exist by now from garbage collection. They are permanent, and a full
    collection of them blocks the event loop for tens of milliseconds. Others are collected less often,
    unless the user's modules have set how often."""
    gc.freeze()
    if gc.get_threshold() == _DEFAULT:
        gc.set_threshold(_COLLECT_AFTER, *_DEFAULT[1:])
