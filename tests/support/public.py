"""The public methods of a manager and of its resources."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from coordinator import RunManager
from coordinator.resources.client_assistants import ClientAssistants
from coordinator.resources.crons import Crons
from coordinator.resources.projections import Projections
from coordinator.resources.runs import Runs
from coordinator.resources.streams import Streams
from coordinator.resources.threads import Threads
from coordinator.resources.webhooks import Webhooks
from coordinator.resources.worker import ThisWorker

NOUNS = {
    "threads": Threads,
    "runs": Runs,
    "crons": Crons,
    "webhooks": Webhooks,
    "client_assistants": ClientAssistants,
    "projections": Projections,
    "streams": Streams,
    "worker": ThisWorker,
}


def public_methods() -> dict[str, Callable[..., Any]]:
    """Returns the methods by their paths from a manager, `cancel` or `threads.get`. Without properties."""
    methods = {"": RunManager} | {f"{noun}.": kind for noun, kind in NOUNS.items()}
    return {
        prefix + name: method
        for prefix, kind in methods.items()
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
