"""The port that removes history, and how long what is kept.

Errors: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Retention(NamedTuple):
    """How long what is over is kept, in seconds; None = for ever.

    `runs`: after they settled. `transitions`: longest, also while their run is there; they leave with it
    in any case. `workers`: after they died. `keys`: a run with an idempotency key is kept for at least
    that long after it settled, so that a repeated request finds it. `webhooks`: after they were delivered
    or given up.
    """

    runs: float | None = None
    transitions: float | None = None
    workers: float | None = None
    keys: float = 86_400.0
    webhooks: float | None = None

    @property
    def anything(self) -> bool:
        return any(age is not None for age in (self.runs, self.transitions, self.workers, self.webhooks))


class Pruned(NamedTuple):
    """How many rows a prune removed."""

    runs: int = 0
    transitions: int = 0
    workers: int = 0
    webhooks: int = 0

    def plus(self, more: Pruned) -> Pruned:
        return Pruned(*(one + other for one, other in zip(self, more, strict=True)))


class PruneCursor(NamedTuple):
    """Where a pass of the pruner goes on. Opaque to all but the store."""

    stage: str
    us: int | None = None
    run_id: str = ""
    id: int = 0


class PruneStep(NamedTuple):
    """`cursor` is None where the pass is over."""

    pruned: Pruned
    cursor: PruneCursor | None


@runtime_checkable
class PruningStore(Protocol):
    """A store whose history can be shortened."""

    async def prune(
        self, keep: Retention, *, cursor: PruneCursor | None = None, limit: int = 500, dry_run: bool = False
    ) -> PruneStep:
        """One step of a pass: look at `limit` rows, remove those that are older than `keep` by the store's
        clock; one transaction. Repeat with the step's cursor until that is None.

        Never removed: a run that has not settled (in flight, waiting, rolling back), the run from which
        its thread's status derives (so no thread changes its status), a thread (so fences survive), the
        audit of a run in flight, a worker that lives or has something in flight. `dry_run` only counts.
        """
        ...
