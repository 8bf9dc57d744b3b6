"""The projection port: queues the changes of runs until a table of another program has them.

Times are µs since 1970 on the store's clock. Errors: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from stores.rows import RunRow

EXISTING, AMENDED, DELETED = "existing", "amended", "deleted"


class RunChange(NamedTuple):
    """One change of the row of a run. `seq` grows with each change of a run; a change that is delivered again
    has the same number. `what`: as in the audit (`admitted`, `queued`, `started`, `decided`, `settled`,
    `finished`, `adopted`, ...); `existing`: the run is older than the projection; `amended`: counters, model
    or metadata of a settled run; `deleted`: also where it was pruned.

    `run`: the row now, which is never older than the change, without private fields (`stores.spec.PRIVATE`);
    None if the run is deleted. `attempt`: from 1.
    """

    seq: int
    run_id: str
    thread_id: str
    at: int
    what: str
    attempt: int
    run: RunRow | None

    @property
    def visible(self) -> bool:
        """Whether a projection gets it: operations are no runs, and a deleted run has a change of its own."""
        return self.what == DELETED if self.run is None else self.run.kind == "run"


class FailedChange(NamedTuple):
    """The delivery of a change has failed. It, and all other changes of its thread, are due in `retry_in`
    µs."""

    seq: int
    error: str
    retry_in: int


class PendingChange(NamedTuple):
    """A change that a projection does not have yet. `error`: of the last attempt."""

    seq: int
    projection: str
    run_id: str
    at: int
    what: str
    attempts: int
    next_at: int | None
    error: str | None


class ProjectionRow(NamedTuple):
    """`pending`: changes that are not delivered yet; `oldest_at`: of these. `failing`: how many of them have
    failed; `error`: of one of them. `filling`: runs that are older than the projection are still queued."""

    name: str
    created_at: int
    filling: bool
    claimed_by: int | None
    pending: int = 0
    oldest_at: int | None = None
    failing: int = 0
    error: str | None = None


@runtime_checkable
class ProjectionStore(Protocol):
    """A store that queues changes for projections: in the transaction of the change, by any worker."""

    async def add_projection(self, name: str) -> None:
        """From now on, changes are queued for this projection. A new one also gets every run that exists: a
        page with each claim. Idempotent."""
        ...

    async def remove_projection(self, name: str) -> bool:
        """Removes the projection and its queue. False = unknown."""
        ...

    async def next_change(self, name: str) -> float | None:
        """Returns the seconds until a change may be delivered; None = none is queued. A cheap read."""
        ...

    async def claim_changes(
        self, name: str, *, epoch: int, lease: float, limit: int
    ) -> list[RunChange] | None:
        """Claims the projection for `lease` s, until the report, or the death of the worker; returns its
        oldest changes, without those of threads of which one has failed and is not due yet. None = another
        worker has it, or it is unknown. Raises EpochDead."""
        ...

    async def report_changes(
        self, name: str, *, epoch: int, delivered: Sequence[int], failed: Sequence[FailedChange] = ()
    ) -> None:
        """Removes what was delivered, and ends the claim. Writes nothing if another worker has claimed the
        projection."""
        ...

    async def projections(self) -> list[ProjectionRow]:
        """In the order of names. Counts the queue."""
        ...

    async def pending_changes(self, run_id: str) -> list[PendingChange]:
        """The changes of a run that projections do not have yet, oldest first."""
        ...
