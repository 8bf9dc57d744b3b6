"""Location of the traceback of a failed run: the log of the worker that executed it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from coordinator.cli.text import clock, safe
from coordinator.schemas import RunStatus
from coordinator.workers.identity import name_of
from stores.base import ReadStore, WorkerStore
from stores.rows import Transition


class Store(ReadStore, WorkerStore, Protocol):
    """The store operations used here."""


async def traceback_location(store: Store, steps: Iterable[Transition]) -> str | None:
    """Describe the log and the time. None if the run's code has not failed, or its worker was pruned."""
    for step in steps:
        if step.what == "finished" and step.to_status is RunStatus.error and step.cause is None:
            for worker in await store.workers(alive_only=False):
                if worker.epoch == step.epoch:
                    return f"in the log of {safe(name_of(worker))}, {clock(step.at)}"
    return None
