"""The queue of a link's calls, and counters of their outcomes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from coordinator.redis.resp import Reply
from coordinator.redis.scripts import Command


@dataclass(slots=True)
class LinkCounters:
    """Totals since construction. `sent` = `answered` + `failed` + `timed_out` + calls in flight."""

    sent: int = 0
    answered: int = 0
    failed: int = 0  # answered with an error, or lost with the connection
    timed_out: int = 0  # not answered within the budget
    dropped: int = 0  # never sent: away, queue full, closed, or expired before there was a connection
    reloaded: int = 0  # scripts sent a second time, by source; not counted in `sent`
    refused: int = 0  # the part of `failed` that was answered with an error


class Call:
    __slots__ = ("command", "deadline", "future")

    def __init__(self, command: Command, future: asyncio.Future[Reply] | None, deadline: float) -> None:
        self.command = command
        self.future = future
        self.deadline = deadline

    def resolve(self, reply: Reply) -> None:
        future = self.future
        if future is not None and not future.done():
            future.set_result(reply)


class CallQueue:
    """Calls in the order in which they were made: first unsent, then in flight. Each call is resolved exactly
    once."""

    def __init__(self) -> None:
        self.counters = LinkCounters()
        self.unsent: deque[Call] = deque()
        self.inflight: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self.unsent) + len(self.inflight)

    def take_unsent(self) -> bytes:
        """Moves all unsent calls in flight, and returns their bytes for one write."""
        calls, self.unsent = self.unsent, deque()
        return self.put_in_flight(calls)

    def put_in_flight(self, calls: deque[Call]) -> bytes:
        """Adds calls in flight, and returns their bytes for one write."""
        self.inflight.extend(calls)
        self.counters.sent += len(calls)
        return b"".join([call.command.by_hash() for call in calls])

    def expire(self, now: float) -> bool:
        """Drops unsent calls that are past their deadline. Returns whether a call in flight is past its
        deadline."""
        while self.unsent and self.unsent[0].deadline <= now:
            self.unsent.popleft().resolve(None)
            self.counters.dropped += 1
        return any(call.deadline <= now for call in self.inflight)

    def next_deadline(self) -> float | None:
        """Returns the earliest deadline, not considering scripts that were sent a second time."""
        # Both queues count: the greeting of a new connection is in flight before older calls are sent.
        return min((calls[0].deadline for calls in (self.inflight, self.unsent) if calls), default=None)

    def drop_unsent(self) -> None:
        calls, self.unsent = self.unsent, deque()
        self.counters.dropped += len(calls)
        for call in calls:
            call.resolve(None)

    def fail_inflight(self, now: float) -> None:
        """Ends the calls in flight on a closed connection. The server may have executed them, so they are not
        repeated."""
        while self.inflight:
            call = self.inflight.popleft()
            if call.deadline <= now:
                self.counters.timed_out += 1
            else:
                self.counters.failed += 1
            call.resolve(None)
