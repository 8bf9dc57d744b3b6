"""What is published besides plain signals: the frequent one, made cheaply, and hints about logs."""

from __future__ import annotations

import re

from coordinator.redis.keys import PLAIN_ID
from coordinator.signals import encode, signal


def encode_settled(thread_id: str, run_id: str) -> bytes:
    """`encode(signal("settled", …))`, but without the model where both ids are plain: every run makes one."""
    if PLAIN_ID.fullmatch(thread_id) and PLAIN_ID.fullmatch(run_id):
        return f'{{"kind":"settled","thread_id":"{thread_id}","run_id":"{run_id}"}}'.encode()
    return encode(signal("settled", thread_id, run_id))


_HINT = re.compile(rb"log:([0-9]{1,19})-([0-9]{1,19}):(.{1,128})", re.DOTALL)


def read_hint(payload: bytes) -> tuple[bytes, tuple[int, int]] | None:
    """What script `append` publishes on the thread's channel: which run's log has grown, and up to which id.
    None = something else."""
    if not payload.startswith(b"log:") or (found := _HINT.fullmatch(payload)) is None:
        return None
    return found[3], (int(found[1]), int(found[2]))


def encode_hint(run: bytes, event_id: tuple[int, int]) -> bytes:
    """What script `append` publishes. `run` is the run's name in keys."""
    return b"log:%d-%d:%b" % (*event_id, run)
