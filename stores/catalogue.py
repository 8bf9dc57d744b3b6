"""The port that lists and keeps threads and runs for clients: what an HTTP gateway asks of a store.

Each call is one transaction or one read. `user_id=None` is system scope; otherwise what belongs to somebody
else, or to nobody, looks as if it did not exist. Operations (`kind="op"`) are nobody's to see.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from stores.pages import Page
from stores.rows import RunRow, ThreadRow

ThreadOrder = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
Direction = Literal["asc", "desc"]
Heavy = Literal["kwargs", "result", "rollback_ref"]
"""Of a run's row: what may be large, and is of use to few."""


@dataclass(frozen=True, slots=True)
class NewThread:
    """`ttl_ms`: removed so long after it was last used; None = never. `existing_ok`: a thread of that id
    that the same user has is answered as it is."""

    thread_id: str
    user_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    ttl_ms: int | None = None
    temporary: bool = False
    existing_ok: bool = False


@dataclass(frozen=True, slots=True)
class ThreadPatch:
    """`metadata` is merged, key by key. `ttl_ms` counts only with `sets_ttl`: None = kept for ever, and what
    was a temporary thread is one like any other from then on."""

    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    ttl_ms: int | None = None
    sets_ttl: bool = False


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Which threads, in which order. What is not given does not narrow.

    `metadata`, `values`: contained, as PostgreSQL's `@>` has it: objects by key, arrays by element, whatever
    else by equality. Threads that are equal in `sort_by` are ordered by thread id, in the same direction.
    """

    ids: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    status: str | None = None
    sort_by: ThreadOrder = "updated_at"
    sort_order: Direction = "desc"
    limit: int = 10
    offset: int = 0
    temporary: bool = False
    """Temporary threads as well; they are always found by `ids`."""
    max_bytes: int | None = None
    """A page ends where its JSON would have more, after one thread at least."""


class RemovedThread(NamedTuple):
    """`run_ids`: what this call has removed of it."""

    thread_id: str
    run_ids: tuple[str, ...]


@runtime_checkable
class CatalogueStore(Protocol):
    async def create_thread(self, new: NewThread) -> ThreadRow:
        """Raises ThreadExists: the id is taken, by whomever."""
        ...

    async def patch_thread(self, thread_id: str, patch: ThreadPatch, *, user_id: str | None) -> ThreadRow:
        """Also while a run is in flight. Raises ThreadNotFound."""
        ...

    async def threads(self, query: ThreadQuery, *, user_id: str | None) -> Page[ThreadRow]:
        """Raises SearchTooLong, as every search and count does."""
        ...

    async def count_threads(self, query: ThreadQuery, *, user_id: str | None) -> int:
        """How many there are without `limit` and `offset`."""
        ...

    async def run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow | None:
        """The run as clients see it: None also for one that was rolled back, and on another thread."""
        ...

    async def thread_of_key(self, key: str, *, user_id: str | None) -> str | None:
        """The thread of the run that the idempotency key was used for, by this user and no other (None: by
        none); None = it was not, or the run is gone."""
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
        """Newest first, those that were rolled back left out. `statuses`: as `RunRow.shown_status`; () = any.
        `without`: these are not read, and empty in the rows. `max_bytes`: as of a `ThreadQuery`. Raises
        ThreadNotFound."""
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
        """What is open or holds its thread, by run id; `after`: run ids greater than that. `statuses`: as
        shown."""
        ...

    async def delete_run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow:
        """Remove a run that has settled, with its audit; answer it as it stood. Raises RunNotFound;
        ConflictError while it is in flight."""
        ...

    async def has_expired_threads(self) -> bool:
        """Would `expire_threads` find any? A read."""
        ...

    async def expire_threads(self, *, limit: int) -> list[RemovedThread]:
        """Remove threads whose time to live has passed by the store's clock since they were last used, with
        their runs and the audit of those; one transaction, at most `limit` threads.

        Used: changed, or a run there settled. Never one where a run has not settled. One with very many runs
        goes in pieces, the oldest first; used again meanwhile, it keeps the rest. Its fence is kept, so that
        a thread of the same id goes on from there: that of a temporary one for a day.
        """
        ...
