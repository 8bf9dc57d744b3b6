"""Calls on their way, and what became of them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from coordinator.redis.resp import Reply
from coordinator.redis.scripts import Command


@dataclass(slots=True)
class LinkCounters:
    """Since construction. `sent` = `answered` + `failed` + `timed_out` + those in flight."""

    sent: int = 0
    answered: int = 0
    failed: int = 0  # answered with an error, or lost with the connection
    timed_out: int = 0  # not answered within the budget
    dropped: int = 0  # never sent: away, queue full, closed, or too old before there was a connection
    reloaded: int = 0  # scripts sent again by source; one more than `sent` tells
    refused: int = 0  # of `failed`, those answered with an error


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
    """Calls in the order in which they were made: first unsent, then in flight. Each gets exactly one end."""

    def __init__(self) -> None:
        self.counters = LinkCounters()
        self.unsent: deque[Call] = deque()
        self.inflight: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self.unsent) + len(self.inflight)

    def take_unsent(self) -> bytes:
        """All unsent calls as one write; they are in flight now."""
        calls, self.unsent = self.unsent, deque()
        return self.take_off(calls)

    def take_off(self, calls: deque[Call]) -> bytes:
        self.inflight.extend(calls)
        self.counters.sent += len(calls)
        return b"".join([call.command.first_try() for call in calls])

    def expire(self, now: float) -> bool:
        """End what is unsent and past its deadline. True where something in flight is past its own."""
        while self.unsent and self.unsent[0].deadline <= now:
            self.unsent.popleft().resolve(None)
            self.counters.dropped += 1
        return any(call.deadline <= now for call in self.inflight)

    def next_deadline(self) -> float | None:
        """The earliest, but for scripts that were sent again."""
        # The greeting of a new connection is in flight before calls that are older than it.
        return min((calls[0].deadline for calls in (self.inflight, self.unsent) if calls), default=None)

    def drop_unsent(self) -> None:
        calls, self.unsent = self.unsent, deque()
        self.counters.dropped += len(calls)
        for call in calls:
            call.resolve(None)

    def fail_inflight(self, now: float) -> None:
        """The connection is gone. Whether these were run is unknown, and they are not repeated."""
        while self.inflight:
            call = self.inflight.popleft()
            if call.deadline <= now:
                self.counters.timed_out += 1
            else:
                self.counters.failed += 1
            call.resolve(None)
