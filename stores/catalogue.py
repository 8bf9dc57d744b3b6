"""The catalogue port: creates, lists and removes threads and runs for clients of an HTTP gateway.

Each call is one transaction or one read. `user_id=None` is system scope. Otherwise, rows of other users and
rows without a user are treated as if they did not exist. Operations (`kind="op"`) are never returned.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from stores.json_values import JsonObject
from stores.pages import Page
from stores.rows import RunRow, ThreadRow

ThreadOrder = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
Direction = Literal["asc", "desc"]
Heavy = Literal["kwargs", "result", "rollback_ref", "extra"]
"""Columns of a run that may be large and are rarely needed."""


@dataclass(frozen=True, slots=True)
class NewThread:
    """`ttl_ms`: time after its last use until it is removed (ms); None = never. `existing_ok`: returns the
    existing thread of that id unchanged if it belongs to the same user."""

    thread_id: str
    user_id: str | None = None
    metadata: JsonObject = field(default_factory=JsonObject)
    ttl_ms: int | None = None
    temporary: bool = False
    existing_ok: bool = False


@dataclass(frozen=True, slots=True)
class ThreadPatch:
    """`metadata` is merged, key by key. `ttl_ms` is set only with `sets_ttl`; None = kept for ever, and a
    temporary thread becomes an ordinary one."""

    metadata: JsonObject = field(default_factory=JsonObject)
    ttl_ms: int | None = None
    sets_ttl: bool = False


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Filters and order of threads. A filter that is not given matches all.

    `metadata`, `values`: containment with the semantics of PostgreSQL's `@>`: objects by key, arrays by
    element, other values by equality. Threads that are equal in `sort_by` are ordered by thread id, in the
    same direction.
    """

    ids: tuple[str, ...] | None = None
    metadata: JsonObject = field(default_factory=JsonObject)
    values: JsonObject = field(default_factory=JsonObject)
    status: str | None = None
    sort_by: ThreadOrder = "updated_at"
    sort_order: Direction = "desc"
    limit: int = 10
    offset: int = 0
    temporary: bool = False
    """Whether temporary threads are included. With `ids` they always are."""
    max_bytes: int | None = None
    """Maximum size of a page's JSON. A page has at least one thread."""


class RemovedThread(NamedTuple):
    """`run_ids`: the runs of the thread that this call removed."""

    thread_id: str
    run_ids: tuple[str, ...]


@runtime_checkable
class CatalogueStore(Protocol):
    async def create_thread(self, new: NewThread) -> ThreadRow:
        """Raises ThreadExists if the id is used, by any user."""
        ...

    async def patch_thread(self, thread_id: str, patch: ThreadPatch, *, user_id: str | None) -> ThreadRow:
        """Allowed while a run is in flight. Raises ThreadNotFound."""
        ...

    async def threads(self, query: ThreadQuery, *, user_id: str | None) -> Page[ThreadRow]:
        """Raises SearchTooLong, as every search and count does."""
        ...

    async def count_threads(self, query: ThreadQuery, *, user_id: str | None) -> int:
        """Returns the number of matching threads, ignoring `limit` and `offset`."""
        ...

    async def run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow | None:
        """Returns a run as clients see it; None also if it was rolled back or is on another thread."""
        ...

    async def thread_of_key(self, key: str, *, user_id: str | None) -> str | None:
        """Returns the thread of the run that was admitted with this idempotency key by this user (None =
        without a user). Returns None if there is no such run."""
        ...

    async def thread_runs(
        self,
        thread_id: str,
        *,
        statuses: tuple[str, ...],
        limit: int,
        offset: int,
        user_id: str | None,
        without: frozenset[Heavy] = frozenset(),
        max_bytes: int | None = None,
    ) -> Page[RunRow]:
        """Newest first, without runs that were rolled back. `statuses`: values of `RunRow.shown_status`; () =
        any. `without`: columns that are not read and are empty in the rows. `max_bytes`: as in `ThreadQuery`.
        Raises ThreadNotFound."""
        ...

    async def inflight_runs(
        self,
        *,
        statuses: tuple[str, ...],
        thread_id: str | None,
        user_id: str | None,
        after: str,
        limit: int,
    ) -> list[RunRow]:
        """Returns runs that are open or hold their thread, ordered by run id. `after`: only run ids greater
        than that. `statuses`: values of `RunRow.shown_status`."""
        ...

    async def started_runs(
        self, thread_id: str, *, after: int, limit: int, user_id: str | None
    ) -> list[RunRow]:
        """Returns runs that have taken the thread with a fence greater than `after`, in the order of their
        fences, which is that in which they began; also those that were rolled back."""
        ...

    async def delete_run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow:
        """Removes a settled run with its audit, and returns its last row. Raises RunNotFound, and
        ConflictError while the run is in flight."""
        ...

    async def update_extra(
        self, run_id: str, extra: JsonObject, *, user_id: str | None, max_bytes: int
    ) -> JsonObject | None:
        """Merges `extra` key by key into the fields of the run, whatever its status, and returns them.
        Returns None, and changes nothing, if they would exceed `max_bytes` as JSON. Raises RunNotFound."""
        ...

    async def has_expired_threads(self) -> bool:
        """Returns whether `expire_threads` would remove a thread. A read."""
        ...

    async def expire_threads(self, *, limit: int) -> list[RemovedThread]:
        """Removes at most `limit` threads whose TTL has passed on the store's clock since their last use,
        with their runs and audit, in one transaction.

        A use is a change of the thread, or the settlement of a run on it. A thread with an unsettled run is
        never removed. A thread with very many runs is removed in several calls, the oldest runs first; a use
        in between keeps the rest. The fence is kept, so that a new thread with the same id continues it; that
        of a temporary thread for one day.
        """
        ...
