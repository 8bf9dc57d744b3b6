"""The head of a thread is the checkpoint with the greatest id, and an id begins with the time of its writer.
So a run on a host whose clock is behind would write checkpoints that are never the head: its work would be
lost without an error."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from coordinator.errors import CoordinatorError

PATIENCE = 2.0
"""s. A run waits until a clock has caught up that is behind by no more."""
_EPOCH = 0x01B21DD213814000
"""The number of 100-ns intervals from 1582-10-15, where uuid6 begins, to 1970-01-01."""


class ClockBehind(CoordinatorError):
    """The clock of this host is behind the newest checkpoint of the thread. Nothing was written."""

    def __init__(self, thread_id: str, seconds: float) -> None:
        self.thread_id, self.seconds = thread_id, seconds
        super().__init__(
            f"The clock of this host ({socket.gethostname()}) is {seconds:.1f} s behind the newest checkpoint"
            f" of thread {thread_id!r}: checkpoints written now would be older than that one, and never"
            " read. Synchronise the clocks of all hosts (NTP), then start the run again"
        )


def written_at(checkpoint_id: str) -> float | None:
    """When the id was made (s since 1970), by its writer's clock; None if it is no uuid6."""
    with suppress(ValueError):
        uuid = UUID(checkpoint_id)
        if uuid.version == 6:
            ticks = (uuid.int >> 80) << 12 | (uuid.int >> 64 & 0xFFF)
            return (ticks - _EPOCH) / 1e7
    return None


async def wait_until_after(
    checkpoint_id: str | None, thread_id: str, clock: Callable[[], float] = time.time
) -> None:
    """Return when new ids are greater than this one. Waits at most PATIENCE s; raises ClockBehind if that is
    not enough. `clock`: s since 1970."""
    written = None if checkpoint_id is None else written_at(checkpoint_id)
    if written is None:
        return
    until = asyncio.get_running_loop().time() + PATIENCE
    while (behind := written - clock()) > 0:
        if behind > until - asyncio.get_running_loop().time():
            raise ClockBehind(thread_id, behind)
        await asyncio.sleep(min(behind, 0.1) + 0.001)
