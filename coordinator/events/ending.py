"""Whether a follower of a settled run has read the whole log, and for how long it waits for the rest.

The owner writes the log on another way than the row, so the log may be late. If the owner has settled the
run, the row names the last entry of the log (`Settled.log_end`). Otherwise the last entry is unknown, and the
follower waits for less time.
"""

from __future__ import annotations

import time

from coordinator.event_log import TAIL, Page
from coordinator.events.cursor import Cursor
from coordinator.events.standing import Settled

PATIENCE = 2.0
"""Seconds for which a follower waits for an unreadable log: as long as the link takes to reconnect."""

LATE = 5.0
"""Seconds for which a follower waits for an entry that the log is to have."""

_GRACE = 0.5
"""Seconds for which a follower waits for further entries if the last one is unknown. The owner sends it
before it settles the run. An owner that died has sent none."""

_FIRST_GRACE = 0.2
"""The same for a run without any entry so far, because most such runs emitted nothing."""

_SETTLED_LONG_AGO = 5.0
"""Seconds after which no entry arrives any more. The log may have expired."""


class Ending:
    """The end of the log that is read with `cursor`. `patience`: LATE; 0 for a log that is never late.
    `page`: what was read last; None = the log cannot be read."""

    def __init__(self, cursor: Cursor, patience: float) -> None:
        self._cursor, self._patience = cursor, patience
        self._waiting_since: float | None = None
        self._readable_since: float | None = None

    def moved(self) -> None:
        """Begins the wait for the next entry anew, because the cursor has moved."""
        self._readable_since = None

    def is_proven(self, settled: Settled, page: Page | None) -> bool:
        """Returns whether the log certainly has no entry behind the cursor."""
        closed, position, end = self._cursor.closed, self._cursor.position, settled.log_end
        if end is not None:
            return position == end if end.number else closed or position in (None, TAIL)
        if closed:
            return position is not None and position.fence >= settled.fence
        return position is None and page is not None and page.top is None and not settled.started

    def is_due(self, settled: Settled) -> bool:
        """Returns whether the log is to have an entry behind the cursor, or at its position."""
        position, end = self._cursor.position, settled.log_end
        if end is None or not end.number:
            return False
        return position is None or position == TAIL or position <= end

    def may_arrive(self, settled: Settled, page: Page | None) -> bool:
        """Returns whether the follower waits for an entry behind the cursor. Counts from the first call."""
        known = settled.log_end is not None
        if not (self.is_due(settled) if known else self._cursor.complete):
            return False
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if page is None:
            self._readable_since = None
            return now - self._waiting_since < PATIENCE
        # After an outage of the log, the owner's backlog arrives when the owner's link has reconnected.
        self._readable_since = self._readable_since or now
        none_read = page.top is None and self._cursor.position is None
        grace = self._patience if known else _FIRST_GRACE if none_read else _GRACE
        return now - self._readable_since < grace and time.time() - settled.at < _SETTLED_LONG_AGO


def has_gap(settled: Settled, page: Page | None) -> bool:
    """Returns whether a log whose end is not proven is reported as a gap: it lacks entries, cannot be read,
    or has expired. If the last entry is unknown, a log that has entries and is not closed is not reported."""
    return settled.log_end is not None or page is None or page.top is None
