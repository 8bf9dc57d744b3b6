"""Errors raised by stores. `coordinator.errors` draws the whole tree.

Data goes in through the constructor; the message is built once, here.
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """Root of every error that this project raises on purpose."""


class ConflictError(CoordinatorError):
    """The thread has a run in flight and the strategy was `reject`, or retries were exhausted."""

    def __init__(self, thread_id: str, active_run_id: str | None = None) -> None:
        self.thread_id = thread_id
        self.active_run_id = active_run_id
        which = f" (run {active_run_id!r})" if active_run_id else ""
        super().__init__(f"Thread {thread_id!r} already has an active run{which}")


class IdempotencyConflict(ConflictError):
    """The idempotency key was used before for another thread, user or request body."""

    def __init__(self, thread_id: str, key: str, active_run_id: str | None) -> None:
        super().__init__(thread_id, active_run_id)
        self.key = key
        by = f" by run {active_run_id!r}" if active_run_id else ""
        self.args = (f"Idempotency key {key!r} was already used{by} for a different request",)


class ThreadExists(ConflictError):
    """The id is taken. By whom is not said: it may be another user's."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(thread_id)
        self.args = (f"Thread {thread_id!r} already exists",)


class QueueFull(CoordinatorError):
    """`enqueue` was asked for and the waiting line of the thread or of the user is full."""

    def __init__(self, thread_id: str, scope: str, limit: int) -> None:
        self.thread_id, self.scope, self.limit = thread_id, scope, limit
        super().__init__(
            f"Thread {thread_id!r} cannot enqueue another run: {limit} runs of this {scope} are waiting"
        )


class ThreadNotFound(CoordinatorError):
    """No such thread, or it belongs to another user: the two look the same on purpose."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(f"Thread {thread_id!r} not found")


class RunNotFound(CoordinatorError):
    """No such run, or it belongs to another user: the two look the same on purpose."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Run {run_id!r} not found")


class SearchTooLong(CoordinatorError):
    """A search or a count was stopped at its deadline."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        super().__init__(
            f"the search took longer than {longest:g} s and was stopped: narrow it (ids, a status, metadata"
            " that fewer have), or allow more (search_timeout)"
        )


class ParentEnded(CoordinatorError):
    """The parent of the run that asks for admission was stopped or failed: nothing starts on its behalf."""

    def __init__(self, parent_run_id: str, status: str) -> None:
        self.parent_run_id, self.status = parent_run_id, status
        super().__init__(f"Parent run {parent_run_id!r} has ended ({status}): it gets no more children")


class CronFired(CoordinatorError):
    """The cron is not due at that moment any more: somebody else fired it, or it was changed."""

    def __init__(self, cron_id: str) -> None:
        self.cron_id = cron_id
        super().__init__(f"Cron {cron_id!r} is not due at that moment any more")


class CronNotFound(CoordinatorError):
    """No such cron, or it belongs to another user: the two look the same on purpose."""

    def __init__(self, cron_id: str) -> None:
        self.cron_id = cron_id
        super().__init__(f"Cron {cron_id!r} not found")


class TooManyCrons(CoordinatorError):
    """The user has as many crons as one user may have. Nothing was written."""

    def __init__(self, user_id: str, limit: int) -> None:
        self.user_id, self.limit = user_id, limit
        super().__init__(
            f"User {user_id!r} has {limit} crons, as many as one user may have (max_crons_per_user):"
            " delete one first"
        )


class StaleFence(CoordinatorError):
    """A newer run has taken the thread: drop what you were about to write."""

    def __init__(self, thread_id: str, fence: int) -> None:
        self.thread_id, self.fence = thread_id, fence
        super().__init__(f"Fence {fence} of thread {thread_id!r} is stale: a newer holder has the thread")


class EpochDead(CoordinatorError):
    """This worker's epoch is not live in the store: it was buried, drained or never registered."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(f"Worker epoch {epoch} is no longer live in the store")


class WrongEventLoop(CoordinatorError, RuntimeError):
    """A call from another event loop than the one that the manager, or its store, lives in. Nothing was
    done. The store is not away and the manager not damaged: only this call is refused."""

    def __init__(self, owner: str) -> None:
        super().__init__(
            f"This {owner} lives in another event loop. From another thread call"
            " asyncio.run_coroutine_threadsafe(call, loop_of_the_manager).result(), or have one manager for"
            " each loop"
        )


class StoreError(CoordinatorError):
    """The store refused or could not answer."""


class StoreUnavailable(StoreError):
    """The store is away, locked past the busy time-out, full or read-only. Nothing was acknowledged."""

    def __init__(self, what: str, *, hint: str = "Nothing was written; try again.") -> None:
        self.what, self.hint = what, hint
        super().__init__(f"Store unavailable: {what}. {hint}")


class StoreFull(StoreUnavailable):
    """There is no room for this write. Smaller ones may be taken."""


class RowLocked(StoreUnavailable):
    """The store answers, and somebody holds a row that is needed. Others are not concerned."""


class OutboxFull(StoreUnavailable):
    """So many writes wait for the store that this worker admits no more runs."""

    def __init__(self, owed: int, limit: int) -> None:
        self.owed, self.limit = owed, limit
        super().__init__(
            f"{owed} finished results wait for the store (limit {limit})",
            hint="Nothing was admitted; retry later.",
        )


class StoreRefused(StoreError):
    """The store exists and must not be used by this process: foreign file, newer schema, other host."""


class StoreReplaced(StoreRefused):
    """A file of the store was removed, moved, replaced or emptied while this process had it open."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} was removed or replaced while this process had it open: what it wrote would be lost."
            " Start the process again"
        )


class StoreInUse(StoreRefused):
    """A worker of another host uses the store, or did until it died: its lease is not over.

    `heartbeat` is its epoch and the number of its last heartbeat: where that moves, it is alive. `lease_left`
    is in seconds.
    """

    def __init__(self, what: str, *, heartbeat: tuple[int, int], lease_left: float) -> None:
        self.heartbeat, self.lease_left = heartbeat, lease_left
        super().__init__(what)


class SchemaTooNew(StoreRefused):
    """A newer program has migrated the store, and programs of this version may not work on it any more."""

    def __init__(self, where: str, *, found: int, oldest: int, newest: int) -> None:
        self.found, self.oldest, self.newest = found, oldest, newest
        super().__init__(
            f"{where} has schema version {found}, for programs that know version {oldest} at least; this one"
            f" knows {newest}: upgrade run-coordinator on this host, or restore the backup"
        )
