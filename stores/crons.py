"""The port that keeps crons: runs that are asked for again and again, and when next.

`user_id=None` is system scope; otherwise what belongs to somebody else looks as if it did not exist. When a
cron is due next is its maker's to compute: the store compares moments, and knows no schedules.

Errors of every call: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from stores.pages import Page

CronOrder = Literal[
    "cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"
]
Direction = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class CronRow:
    """`thread_id` None: each run gets a thread of its own. `next_at` None: it is over. `version` grows with
    every write. `created_at`, `updated_at`, `last_…` and `version` are the store's to set."""

    cron_id: str
    user_id: str | None
    assistant_id: str
    thread_id: str | None
    schedule: str
    timezone: str | None
    enabled: bool
    end_at: int | None
    on_run_completed: str | None
    payload: dict[str, Any]
    metadata: dict[str, Any]
    next_at: int | None
    last_at: int | None = None
    """The last moment that it was due at, whatever came of it."""
    last_run_id: str | None = None
    last_error: str | None = None
    """Why that did not become a run."""
    created_at: int = 0
    updated_at: int = 0
    version: int = 1


class Firing(NamedTuple):
    """One moment that a cron is due at, and when it is due after that. The run that carries it is admitted
    only while the cron is still due at that very moment, and in the same transaction it is no more."""

    cron_id: str
    at: int
    next_at: int | None


class DueCrons(NamedTuple):
    """`now`: the store's clock at that look."""

    now: int
    crons: tuple[CronRow, ...]


@dataclass(frozen=True, slots=True)
class CronQuery:
    """What is not given does not narrow. `metadata` is contained. `assistant_ids`: any of these."""

    assistant_ids: tuple[str, ...] | None = None
    thread_id: str | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    sort_by: CronOrder = "created_at"
    sort_order: Direction = "desc"
    limit: int = 10
    offset: int = 0
    max_bytes: int | None = None
    """A page ends where its JSON would have more, after one cron at least."""


@runtime_checkable
class CronStore(Protocol):
    """A store that keeps crons. `admit` takes a run's `Firing`: see there. A thread that is removed takes
    its crons along."""

    async def create_cron(
        self, cron: CronRow, *, thread_must_exist: bool, limit: int | None = None
    ) -> CronRow:
        """`limit`: how many its user may have, this one included; a cron without a user is not counted.

        Raises ThreadNotFound where the thread is somebody else's, or must be there and is not; TooManyCrons.
        """
        ...

    async def cron(self, cron_id: str, *, user_id: str | None) -> CronRow | None: ...
    async def replace_cron(self, cron: CronRow, *, user_id: str | None) -> CronRow | None:
        """Compare-and-set on `cron.version`; what the store sets stays. None = it changed, or is gone."""
        ...

    async def delete_cron(self, cron_id: str, *, user_id: str | None) -> bool: ...
    async def crons(self, query: CronQuery, *, user_id: str | None) -> Page[CronRow]:
        """Raises SearchTooLong, as `count_crons` does."""
        ...

    async def count_crons(self, query: CronQuery, *, user_id: str | None) -> int:
        """How many there are without `limit` and `offset`."""
        ...

    async def next_cron(self, assistants: Sequence[str]) -> float | None:
        """Seconds until one of these assistants' is due; None = none will be. A read: for those who poll."""
        ...

    async def due_crons(self, assistants: Sequence[str], *, limit: int) -> DueCrons:
        """Those that are due, the longest first. A read: nobody has them for himself."""
        ...

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        """The moment becomes no run. False = it is over already: somebody was faster."""
        ...
