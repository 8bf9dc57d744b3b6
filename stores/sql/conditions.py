"""Conditions on runs that both engines share. The text of IN_FLIGHT is that of the partial index
`runs_inflight`, so that SQLite may use it."""

from __future__ import annotations

from stores.sql.codec import OPEN_STATUSES

IN_FLIGHT = f"(holds_thread OR status IN {OPEN_STATUSES})"
WAITS = (
    "status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)"
)
"""Waits for the thread, or for its time. Without a home it was handed over, to any worker that knows its
assistant; a run with neither home nor portability was imported, and lives beside the slot."""
QUEUED = f"{WAITS} AND not_before IS NULL"
"""Waits for the thread. Until a delayed run joins the queue (`admission.queue_due`), no run waits
behind it."""
WAITING = f"{IN_FLIGHT} AND {QUEUED}"

_STOPPING = (
    f"(status NOT IN {OPEN_STATUSES} AND settled_at IS NULL AND (holds_thread OR owner_epoch IS NOT NULL))"
)
ROLLED_BACK = (
    "(COALESCE(cancel_action, '') = 'rollback' AND COALESCE(rollback_state, '') <> 'failed'"
    f" AND status NOT IN {OPEN_STATUSES} AND NOT {_STOPPING})"
)
SHOWN_STATUS = (
    f"CASE WHEN {_STOPPING} THEN 'running' WHEN COALESCE(rollback_state, '') = 'failed' THEN 'error'"
    " ELSE status END"
)
"""The same conditions as `RunRow.stopping`, `.rolled_back` and `.shown_status`."""
