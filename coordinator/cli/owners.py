"""Whether the worker of a run is alive, for every command that shows the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from stores.base import CoordinationStore
from stores.rows import RunRow, WorkerRow


class Owners:
    """The workers of a store at one moment. A worker that is not among them is declared dead."""

    def __init__(self, alive: Iterable[WorkerRow]) -> None:
        """`alive`: neither declared dead nor proven dead by the operating system."""
        self._alive = {worker.epoch: worker for worker in alive}

    @classmethod
    async def read(cls, store: CoordinationStore) -> Self:
        rows = await store.workers(counted=False)
        return cls(row for row in rows if not store.proven_dead(row))

    def live(self, run: RunRow) -> WorkerRow | None:
        """The owner of the run; None if it has none, or the owner is dead or its lease expired."""
        worker = None if run.owner_epoch is None else self._alive.get(run.owner_epoch)
        return None if worker is None or worker.expired else worker

    def dead(self, run: RunRow) -> bool:
        """Whether the run is in flight on a worker that is dead."""
        epoch = _epoch_of(run)
        return epoch is not None and epoch not in self._alive

    def loss(self, run: RunRow) -> str | None:
        """A sentence for a run in flight whose worker is dead or has lost its lease, with what remedies it;
        None for others."""
        epoch = _epoch_of(run)
        if epoch is None:
            return None
        if (worker := self._alive.get(epoch)) is None:
            return f"its worker (epoch {epoch}) is dead: {_remedy(run)}"
        if worker.expired:
            return f"the lease of its worker (epoch {epoch}) has expired: {_remedy(run)}"
        return None


def _epoch_of(run: RunRow) -> int | None:
    """The worker whose death ends the run, or frees it for others."""
    if run.stopping or (run.open and run.holds_thread and not run.between_attempts):
        return run.owner_epoch
    return run.home_epoch if run.waiting and not run.portable else None


def _remedy(run: RunRow) -> str:
    if run.waiting:
        return "`coordinator reconcile` ends the run"
    if run.open and run.portable and (run.started_at is None or run.retries > 0):
        return "a worker that executes its assistant continues the run"
    return "`coordinator reconcile` frees the thread"
