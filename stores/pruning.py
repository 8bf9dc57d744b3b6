"""The pruning port: removes history after a retention.

Errors: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

KEYS_KEPT = 86_400.0
"""Seconds for which a run with an idempotency key is kept at least after it has settled."""


class Retention(NamedTuple):
    """How long rows are kept, in seconds; None = for ever.

    `runs`: after they settled. `transitions`: since they were written, even while their run exists; they are
    removed with it at the latest. `workers`: after they died. `keys`: a run with an idempotency key is kept
    for at least that long after it settled, so that a repeated request returns it. `webhooks`: after they
    were delivered or failed for good.
    """

    runs: float | None = None
    transitions: float | None = None
    workers: float | None = None
    keys: float = KEYS_KEPT
    webhooks: float | None = None

    @property
    def anything(self) -> bool:
        return any(age is not None for age in (self.runs, self.transitions, self.workers, self.webhooks))


class Pruned(NamedTuple):
    """Numbers of rows that a prune removed."""

    runs: int = 0
    transitions: int = 0
    workers: int = 0
    webhooks: int = 0

    def plus(self, other: Pruned) -> Pruned:
        return Pruned(*(a + b for a, b in zip(self, other, strict=True)))


class PruneCursor(NamedTuple):
    """Where a pass of the pruner continues. Opaque except to the store."""

    stage: str
    us: int | None = None
    run_id: str = ""
    id: int = 0


class PruneStep(NamedTuple):
    """`cursor` None: the pass is complete."""

    pruned: Pruned
    cursor: PruneCursor | None


@runtime_checkable
class PruningStore(Protocol):
    """A store that can remove history."""

    async def prune(
        self, keep: Retention, *, cursor: PruneCursor | None = None, limit: int = 500, dry_run: bool = False
    ) -> PruneStep:
        """Makes one step of a pass: examines `limit` rows, and removes those that are older than `keep` on
        the store's clock, in one transaction. Call it with the returned cursor until that is None.

        Never removes an unsettled run (in flight, waiting, rolling back), the run from which its thread's
        status is derived (so that no thread changes its status), a thread (so that fences survive), the audit
        of a run in flight, or a worker that is live or has a run in flight. `dry_run` only counts.
        """
        ...
