"""The newest checkpoints of the threads that are open in this process."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.langgraph.savers.records import CheckpointKey, StoredCheckpoint

LARGEST = 1 << 20
"""Bytes of a checkpoint that is kept in memory."""


class _Head(NamedTuple):
    newest_id: str
    known: bool
    checkpoint: StoredCheckpoint | None = None


class Heads:
    """Spares a run the read of a checkpoint that it has written itself, or that was read when its thread was
    opened. Of root graphs; in memory.

    Only the run that has opened the thread with this fence may be answered from here: while the fence is
    valid, all writes to the thread are noted here; afterwards, what it reads does not matter, because its
    writes are refused.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[str, int], _Head] = {}

    def opened(self, thread_id: str, fence: int, head: StoredCheckpoint | None) -> None:
        """`head`: the newest checkpoint with its writes; None = the thread has none."""
        self._heads[thread_id, fence] = _Head("" if head is None else head.key.checkpoint_id, True, head)

    def drop(self, thread_id: str, fence: int) -> None:
        self._heads.pop((thread_id, fence), None)

    def wrote(self, fence: int, key: CheckpointKey, checkpoint: StoredCheckpoint | None = None) -> None:
        """Notes a write. `checkpoint`: the whole of it, if it will be written or the run will fail."""
        own = key.thread_id, fence
        head = self._heads.get(own)
        if head is None or key.checkpoint_ns or key.checkpoint_id < head.newest_id:
            return
        # Writes may come before their checkpoint: then what is known of it is not all.
        known = (
            checkpoint is not None
            and key.checkpoint_id > head.newest_id
            and len(checkpoint.checkpoint) <= LARGEST
        )
        self._heads[own] = _Head(key.checkpoint_id, known, checkpoint if known else None)

    def take(self, thread_id: str, fence: int) -> tuple[StoredCheckpoint | None] | None:
        """Returns the head, once: it may be large. None if it must be read."""
        head = self._heads.get((thread_id, fence))
        if head is None or not head.known:
            return None
        self._heads[thread_id, fence] = _Head(head.newest_id, False)
        return (head.checkpoint,)
