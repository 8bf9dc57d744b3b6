"""Conditions that many statements share; their text is that of the partial indexes."""

from __future__ import annotations

from stores.sql.codec import OPEN_STATUSES

IN_FLIGHT = f"(holds_thread OR status IN {OPEN_STATUSES})"
WAITS = (
    "status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)"
)
"""Waits for the thread, or for its time."""
QUEUED = f"{WAITS} AND not_before IS NULL"
WAITING = f"{IN_FLIGHT} AND {QUEUED}"
HOMELESS = "NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')"
