"""The cron port: stores crons (recurring runs) and the time at which each is due next.

`user_id=None` is system scope; otherwise crons of other users are treated as if they did not exist. The
caller computes the next time: the store compares times, and does not parse schedules. Times are µs since
1970.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from stores.json_values import JsonObject
from stores.pages import Page

CronOrder = Literal[
    "cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"
]
Direction = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class CronRow:
    """`thread_id` None: each run gets a thread of its own. `next_at` None: the cron has ended. The store sets
    `created_at`, `updated_at`, `last_…` and `version`, which grows with every write."""

    cron_id: str
    user_id: str | None
    assistant_id: str
    thread_id: str | None
    schedule: str
    timezone: str | None
    enabled: bool
    end_at: int | None
    on_run_completed: str | None
    payload: JsonObject
    metadata: JsonObject
    next_at: int | None
    user_document: JsonObject | None = field(default=None, repr=False)
    """For the runs, see `RunColumns`: of the user's last change. Not shown to clients."""
    last_at: int | None = None
    """The last moment at which it was due, fired or skipped."""
    last_run_id: str | None = None
    last_error: str | None = None
    """Why the run of the last moment was refused."""
    created_at: int = 0
    updated_at: int = 0
    version: int = 1


class Firing(NamedTuple):
    """One moment `at` at which a cron is due, and the next one. A run with a firing is admitted only while
    the cron is due at `at`; the same transaction advances the cron to `next_at`."""

    cron_id: str
    at: int
    next_at: int | None


class DueCrons(NamedTuple):
    """`now`: the store's clock at the read."""

    now: int
    crons: tuple[CronRow, ...]


@dataclass(frozen=True, slots=True)
class CronQuery:
    """A filter that is not given matches all. `metadata`: containment, as in `ThreadQuery`. `assistant_ids`:
    any of these."""

    assistant_ids: tuple[str, ...] | None = None
    thread_id: str | None = None
    enabled: bool | None = None
    metadata: JsonObject = field(default_factory=JsonObject)
    sort_by: CronOrder = "created_at"
    sort_order: Direction = "desc"
    limit: int = 10
    offset: int = 0
    max_bytes: int | None = None
    """Maximum size of a page's JSON. A page has at least one cron."""


@runtime_checkable
class CronStore(Protocol):
    """A store of crons. `admit` accepts a `Firing`, see there. A thread is removed with its crons."""

    async def create_cron(
        self, cron: CronRow, *, thread_must_exist: bool, limit: int | None = None
    ) -> CronRow:
        """`limit`: maximum number of crons of its user, including this one; a cron without a user is not
        limited.

        Raises ThreadNotFound if the thread belongs to another user, or does not exist and must; TooManyCrons.
        """
        ...

    async def cron(self, cron_id: str, *, user_id: str | None) -> CronRow | None: ...
    async def replace_cron(self, cron: CronRow, *, user_id: str | None) -> CronRow | None:
        """Compare-and-set on `cron.version`. Returns None if the cron was changed or removed meanwhile."""
        ...

    async def delete_cron(self, cron_id: str, *, user_id: str | None) -> bool: ...
    async def crons(self, query: CronQuery, *, user_id: str | None) -> Page[CronRow]:
        """Raises SearchTooLong, as `count_crons` does."""
        ...

    async def count_crons(self, query: CronQuery, *, user_id: str | None) -> int:
        """Returns the number of matching crons, ignoring `limit` and `offset`."""
        ...

    async def next_cron(self, assistants: Sequence[str]) -> float | None:
        """Returns the seconds until the next cron of these assistants is due; None = there is none. A cheap
        read for polling."""
        ...

    async def due_crons(self, assistants: Sequence[str], *, limit: int) -> DueCrons:
        """Returns due crons, the longest overdue first. A read: it claims none of them."""
        ...

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        """Advances the cron without a run. Returns False if it is not due at that moment any more."""
        ...
