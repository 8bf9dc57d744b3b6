"""The waiting runs without a live home: which of them a worker may claim, and which none can."""

from __future__ import annotations

from typing import NamedTuple

UNCLAIMED = "No worker has executed this run: no live worker executed its assistant for 10 minutes."
"""The error of a run that waited without a live home for longer than a sweep leaves it. Functions of
PostgreSQL have the same text."""


class Claimable(NamedTuple):
    """A free thread, with the user and the assistant of the run that takes it next."""

    thread_id: str
    user_id: str | None
    assistant_id: str | None


class ClaimableQuery(NamedTuple):
    """`full_users`, `full_assistants`: their runs are left out. `after`: the user whose run was claimed last;
    users take turns in the order of their ids, which begins behind it."""

    limit: int
    after: str | None = None
    full_users: tuple[str | None, ...] = ()
    full_assistants: tuple[str, ...] = ()


class Unclaimed(NamedTuple):
    """Waiting portable runs of an assistant that no live worker executes. `since`: when the first of them was
    queued, or was handed over."""

    assistant_id: str | None
    runs: int
    since: int
