"""Conditions and sources of rows that many statements share, in the text that SQLite needs."""

from __future__ import annotations

IN_FLIGHT_RUNS = "runs INDEXED BY runs_inflight"
"""Without statistics SQLite prefers the history index, and admission would slow down with every
finished run of the thread. INDEXED BY raises an error where the index cannot serve the query."""
IN_FLIGHT_RUNS_BY_ID = "runs INDEXED BY runs_open"
"""For pages in the order of ids: a page then reads what is on it, not all runs in flight."""
IN_JSON = "IN (SELECT value FROM json_each(?))"
"""The column has one of the values of a JSON array. The text is the same for any number of values. With a
parameter for each value it would differ, and a connection keeps its 512 latest statements, at about 300 bytes
per parameter."""
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
