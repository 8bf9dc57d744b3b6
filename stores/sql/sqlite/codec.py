"""Conditions that many statements share, in the text that SQLite needs."""

from __future__ import annotations

from stores.sql.codec import OPEN_STATUSES

IN_FLIGHT = f"(holds_thread OR status IN {OPEN_STATUSES})"
"""The text is that of the partial index `runs_inflight`, so that SQLite may use it."""
IN_FLIGHT_RUNS = "runs INDEXED BY runs_inflight"
"""Without statistics SQLite prefers the history index, and admission would slow down with every
finished run of the thread. INDEXED BY raises an error where the index cannot serve the query."""
WAITS = (
    "status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)"
)
"""Waits for the thread, or for its time. Without a home it was handed over, to any worker that knows its
assistant; a run with neither home nor portability was imported, and lives beside the slot."""
QUEUED = f"{WAITS} AND not_before IS NULL"
"""Waits for the thread. Until a delayed run joins the queue (`admission.queue_due`), no run waits
behind it."""
WAITING = f"{IN_FLIGHT} AND {QUEUED}"
ALIVE = "(SELECT epoch FROM workers WHERE state <> 'dead')"
HOMELESS = f"(home_epoch IS NULL OR home_epoch NOT IN {ALIVE})"
KNOWN = (
    "assistant_id IN (SELECT value FROM json_each((SELECT assistants FROM workers"
    " WHERE epoch = :epoch AND state = 'live')))"
)
"""The worker `:epoch` can execute the run. A draining worker takes no runs over."""
GONE = (
    "gone (after, before) AS (SELECT * FROM (SELECT COALESCE(lag(epoch) OVER (ORDER BY epoch), -1) AS after,"
    " epoch AS before FROM workers WHERE state <> 'dead' UNION ALL SELECT COALESCE(MAX(epoch), -1),"
    f" {(1 << 63) - 1} FROM workers WHERE state <> 'dead') WHERE before > after + 1)"
)
"""Open intervals of epochs that no live worker has, as a common table: dead ones and missing ones."""
