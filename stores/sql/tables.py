"""The tables of a deployment that a copy contains, and the order in which their rows are read."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    name: str
    key: tuple[str, ...]


TABLES = (
    Table("workers", ("epoch",)),
    Table("threads", ("thread_id",)),
    Table("deleted_threads", ("thread_id",)),
    Table("passing_fences", ("forget_at", "thread_id")),
    Table("thread_states", ("thread_id", "kind")),
    Table("runs", ("run_id",)),
    Table("transitions", ("id",)),
    Table("webhooks", ("run_id",)),
    Table("crons", ("cron_id",)),
    Table("assistants", ("assistant_id",)),
    Table("assistant_versions", ("assistant_id", "version")),
    Table("event_logs", ("run_id",)),
    Table("run_events", ("run_id", "fence", "number")),
)

END_OF_IDS = chr(0x10FFFF)
"""In the order of code points, which both engines use, behind every continuation of an id."""

IDS = {
    "run": ("runs", "run_id", " AND kind = 'run'"),
    "thread": ("threads", "thread_id", ""),
    "cron": ("crons", "cron_id", ""),
    "webhook": ("webhooks", "run_id", ""),
}
"""By kind of id: the table, its column, and a condition. Each column is a primary key."""
