"""Where a reader stands in a log, and what it has to be told of what is missing.

next entry                              nothing is missing where
of the same fence                       its number is one more
the first that this reader sees         its number is 1, or the reader began at the end of the log
of a newer fence (a take-over)          the older fence was closed, and its number is 1
"""

from __future__ import annotations

from coordinator.event_log import END, TAIL, Event, EventId, Gap, Page


class Cursor:
    """`complete`: nothing was missing so far. `closed`: the newest entry seen was the last of its fence."""

    def __init__(self, after: EventId | None) -> None:
        self.position = after
        self.last_id = None if after is None or after == TAIL else str(after)
        self.complete = True
        self.closed = False
        self._anywhere = False

    def advance(self, page: Page) -> list[Event | Gap]:
        """What is new in the page that was read after `position`. Empty: the reader is up to date."""
        if not page.events:
            return self._at_the_end(page.top)
        told: list[Event | Gap] = []
        for entry in page.events:
            is_end = entry.mode == END
            if not self._follows(entry.id):
                told.append(self.gap(None if is_end else entry.id))
            self.position, self.closed, self._anywhere = entry.id, is_end, False
            if not is_end:
                self.last_id = str(entry.id)
                told.append(entry)
        return told

    def gap(self, before: EventId | None) -> Gap:
        self.complete = False
        return Gap(self.last_id, None if before is None else str(before))

    def _follows(self, event_id: EventId) -> bool:
        if self._anywhere:
            return True
        position = self.position
        if position is not None and position.fence == event_id.fence:
            return event_id.number == position.number + 1
        return event_id.number == 1 and (position is None or self.closed)

    def _at_the_end(self, top: EventId | None) -> list[Event | Gap]:
        position = self.position
        if position == TAIL:
            self.position, self._anywhere = top, top is None
        elif position is not None and top is not None and top < position:
            # Never issued; or the log has lost its newest entries, as a failover may do.
            told: list[Event | Gap] = [self.gap(None)]
            self.position = top
            return told
        return []
