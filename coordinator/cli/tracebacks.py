"""Where the traceback of a failed run is: in the log of the worker that ran it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from coordinator.cli.text import clock, safe
from coordinator.schemas import RunStatus
from coordinator.workers.identity import name_of
from stores.base import ReadStore, WorkerStore
from stores.rows import Transition


class Store(ReadStore, WorkerStore, Protocol):
    """What is read of it."""


async def place_of_traceback(store: Store, steps: Iterable[Transition]) -> str | None:
    """In words. None where its own code has not failed, or its worker is not known any more."""
    for step in steps:
        if step.what == "finished" and step.to_status is RunStatus.error and step.cause is None:
            for worker in await store.workers(alive_only=False):
                if worker.epoch == step.epoch:
                    return f"in the log of {safe(name_of(worker))}, {clock(step.at)}"
    return None
