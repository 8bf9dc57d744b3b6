"""Errors raised by stores. `coordinator.errors` shows the whole tree.

Constructors take data and build the message.
"""

from __future__ import annotations

SCHEMA_CHANGED = (
    "The schema is of another version than this program, or was changed by hand:"
    " `coordinator db check` lists what is missing"
)
"""Begins the hint of every engine where a table or a column does not exist."""


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
    """The id is used. The message does not name its user, who may be another one."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(thread_id)
        self.args = (f"Thread {thread_id!r} already exists",)


class QueueFull(CoordinatorError):
    """The strategy is `enqueue`, and the queue of the thread or of the user is full."""

    def __init__(self, thread_id: str, scope: str, limit: int) -> None:
        self.thread_id, self.scope, self.limit = thread_id, scope, limit
        super().__init__(
            f"Thread {thread_id!r} cannot enqueue another run: {limit} runs of this {scope} are waiting"
        )


class ThreadNotFound(CoordinatorError):
    """No such thread, or it belongs to another user. The message is the same, so that ids of other users are
    not revealed."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(f"Thread {thread_id!r} not found")


class RunNotFound(CoordinatorError):
    """No such run, or it belongs to another user; the message is the same."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Run {run_id!r} not found")


class SearchTooLong(CoordinatorError):
    """A search or a count was stopped at its deadline."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        super().__init__(
            f"the search took longer than {longest:g} s and was stopped: add filters (ids, a status,"
            " metadata that fewer threads have), or raise search_timeout"
        )


class ParentEnded(CoordinatorError):
    """The parent of the new run was stopped or failed, so no run is admitted on its behalf."""

    def __init__(self, parent_run_id: str, status: str) -> None:
        self.parent_run_id, self.status = parent_run_id, status
        super().__init__(f"Parent run {parent_run_id!r} has ended ({status}): it cannot get further children")


class CronFired(CoordinatorError):
    """The cron is not due at that moment any more: another worker fired it, or it was changed."""

    def __init__(self, cron_id: str) -> None:
        self.cron_id = cron_id
        super().__init__(f"Cron {cron_id!r} is not due at that moment any more")


class CronNotFound(CoordinatorError):
    """No such cron, or it belongs to another user; the message is the same."""

    def __init__(self, cron_id: str) -> None:
        self.cron_id = cron_id
        super().__init__(f"Cron {cron_id!r} not found")


class AssistantNotFound(CoordinatorError):
    """No such assistant, or it belongs to another user; the message is the same. Or no such version."""

    def __init__(self, assistant_id: str, version: int | None = None, *, newest: int | None = None) -> None:
        """`newest`: the greatest version of an assistant that exists."""
        self.assistant_id, self.version = assistant_id, version
        why = "not found"
        if newest is not None:
            existing = "only version 1" if newest == 1 else f"the versions 1 to {newest}"
            why = f"has no version {version}: it has {existing}"
        super().__init__(f"Assistant {assistant_id!r} {why}")


class AssistantExists(CoordinatorError):
    """The id of a new assistant is in use, maybe by another user. Nothing was written."""

    def __init__(self, assistant_id: str) -> None:
        self.assistant_id = assistant_id
        super().__init__(
            f"Assistant {assistant_id!r} exists: change it, or create one with another id (or without one)"
        )


class TooManyCrons(CoordinatorError):
    """The user has reached the maximum number of crons. Nothing was written."""

    def __init__(self, user_id: str, limit: int) -> None:
        self.user_id, self.limit = user_id, limit
        super().__init__(
            f"User {user_id!r} has {limit} crons, the maximum for one user (max_crons_per_user): delete one"
            " first"
        )


class StaleFence(CoordinatorError):
    """A newer run holds the thread, or `why`: the write was refused and must be dropped."""

    def __init__(self, thread_id: str, fence: int, why: str | None = None) -> None:
        self.thread_id, self.fence = thread_id, fence
        super().__init__(
            why or f"Fence {fence} of thread {thread_id!r} is stale: a newer run holds the thread"
        )


class EpochDead(CoordinatorError):
    """This worker's epoch is not live in the store: it was declared dead, drains, or was never registered."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(f"Worker epoch {epoch} is no longer live in the store")


class WrongEventLoop(CoordinatorError, RuntimeError):
    """A call from another event loop than that of the manager or its store. Only this call is refused,
    without any effect; the store is not unavailable."""

    def __init__(self, owner: str) -> None:
        super().__init__(
            f"This {owner} belongs to another event loop. From another thread call"
            " asyncio.run_coroutine_threadsafe(call, loop_of_the_manager).result(), or use one manager for"
            " each loop"
        )


class StoreError(CoordinatorError):
    """The store refused or could not answer."""


class StoreUnavailable(StoreError):
    """The store is unreachable, locked for longer than the busy timeout, full or read-only. Nothing was
    acknowledged."""

    def __init__(self, what: str, *, hint: str = "Nothing was written; try again.") -> None:
        self.what, self.hint = what, hint
        super().__init__(f"Store unavailable: {what}. {hint}")


class StoreFull(StoreUnavailable):
    """There is no disk space for this write. Smaller writes may succeed."""


class RowLocked(StoreUnavailable):
    """A row that is needed is locked by another transaction. Operations on other rows are unaffected."""


class ConnectionsBusy(StoreUnavailable):
    """All connections that this call may use wait for locked rows or slow statements. Calls that use others,
    such as reads, are unaffected."""


class OutboxFull(StoreUnavailable):
    """So many writes wait for the store that this worker refuses new runs."""

    def __init__(self, pending: int, limit: int) -> None:
        self.pending, self.limit = pending, limit
        super().__init__(
            f"{pending} finished results wait for the store (limit {limit})",
            hint="Nothing was admitted; retry later.",
        )


class StoreRefused(StoreError):
    """The store exists, but this process must not use it: another program's file, a newer schema, another
    host."""


class StoreReplaced(StoreRefused):
    """A file of the store was removed, moved, replaced or emptied while this process had it open."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} was removed or replaced while this process had it open: further writes would be lost."
            " Restart the process"
        )


class StoreInUse(StoreRefused):
    """A worker of another host has an unexpired lease on the store; it may be dead.

    `heartbeat`: its epoch and the number of its last heartbeat. If that changes, the worker is alive.
    `lease_left`: seconds.
    """

    def __init__(self, what: str, *, heartbeat: tuple[int, int], lease_left: float) -> None:
        self.heartbeat, self.lease_left = heartbeat, lease_left
        super().__init__(what)


class SchemaTooOld(StoreRefused):
    """The store is from before the first release, and no migration leads from there to this program."""

    def __init__(self, where: str, *, version: int, first: int) -> None:
        self.version, self.first = version, first
        super().__init__(
            f"{where} has schema version {version}, from before the first release (version {first}): start"
            " with a new file or schema; the program that made the old one still reads it"
        )


class SchemaTooNew(StoreRefused):
    """A newer version has migrated the store, and this version must not use it any more."""

    def __init__(self, where: str, *, version: int, oldest: int, newest: int) -> None:
        self.version, self.oldest, self.newest = version, oldest, newest
        super().__init__(
            f"{where} has schema version {version}, for programs that know version {oldest} at least; this"
            f" one knows {newest}: upgrade run-coordinator on this host, or restore the backup"
        )
