"""The position of a reader in a log, and the detection of gaps.

next entry                              nothing is missing if
of the same fence                       its number is the previous one plus 1
the first that this reader reads        its number is 1, or the reader began at the end of the log
of a newer fence (a take-over)          the older fence was closed, and its number is 1
"""

from __future__ import annotations

from coordinator.event_log import END, TAIL, Event, EventId, Gap, Page


class Cursor:
    """`complete`: no gap so far. `closed`: the newest entry that was read is the last one of its fence."""

    def __init__(self, after: EventId | None) -> None:
        self.position = after
        self._last = None if after is None or after == TAIL else after
        self.complete = True
        self.closed = False
        self._any_entry_follows = False

    @property
    def last_id(self) -> str | None:
        """The newest event that was read, or the one after which this reader began."""
        return None if self._last is None else str(self._last)

    def advance(self, page: Page) -> list[Event | Gap]:
        """Moves behind a page that was read after `position`, and returns its events and gaps. An empty list:
        the reader is up to date."""
        if not page.events:
            return self._at_the_end(page.top)
        items: list[Event | Gap] = []
        for entry in page.events:
            is_end = entry.mode == END
            if not self._follows(entry.id):
                items.append(self.gap(None if is_end else entry.id))
            self.position, self.closed, self._any_entry_follows = entry.id, is_end, False
            if not is_end:
                self._last = entry.id
                items.append(entry)
        return items

    def is_ahead_of(self, top: EventId | None) -> bool:
        """Returns whether a log that ends with `top` ends before the position."""
        position = self.position
        return top is not None and position not in (None, TAIL) and top < position

    def gap(self, before: EventId | None) -> Gap:
        self.complete = False
        return Gap(self.last_id, None if before is None else str(before))

    def _follows(self, event_id: EventId) -> bool:
        if self._any_entry_follows:
            return True
        position = self.position
        if position is not None and position.fence == event_id.fence:
            return event_id.number == position.number + 1
        return event_id.number == 1 and (position is None or self.closed)

    def _at_the_end(self, top: EventId | None) -> list[Event | Gap]:
        position = self.position
        if position == TAIL:
            self.position, self._any_entry_follows = top, top is None
        elif self.is_ahead_of(top):
            # The position was never issued, or the log has lost its newest entries in a failover.
            items: list[Event | Gap] = [self.gap(None)]
            self.position = top
            return items
        return []
