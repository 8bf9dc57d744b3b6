"""What a paused run waits for."""

from __future__ import annotations

from typing import NamedTuple, Self

from stores.base import CoordinationStore
from stores.rows import RunRow


class Pause(NamedTuple):
    """`waits_for_answer`: no later run has answered the run, or replaced what it left."""

    waits_for_answer: bool
    sentence: str | None
    """None for a run that has not paused."""

    @classmethod
    async def read(cls, store: CoordinationStore, run: RunRow) -> Self:
        if not run.paused:
            return cls(False, None)
        thread = await store.thread(run.thread_id)
        if thread is None or thread.status != "interrupted" or thread.interrupts != run.interrupts:
            return cls(False, "a later run of its thread has continued it, or begins anew")
        if not run.interrupts:
            return cls(True, "waits at a breakpoint for a run of its thread that continues it")
        return cls(True, "waits for an answer: a run of its thread with the command `resume`")
