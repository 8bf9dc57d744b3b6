"""Encodings of messages beside plain signals: a fast one for `settled`, events of runs, and hints about event
logs."""

from __future__ import annotations

import re
from typing import NamedTuple

from coordinator.redis.keys import PLAIN_ID
from coordinator.signals import encode, signal


def encode_settled(thread_id: str, run_id: str) -> bytes:
    """As `encode(signal("settled", …))`, but without the pydantic model if both ids are plain, because every
    run publishes one."""
    if PLAIN_ID.fullmatch(thread_id) and PLAIN_ID.fullmatch(run_id):
        return f'{{"kind":"settled","thread_id":"{thread_id}","run_id":"{run_id}"}}'.encode()
    return encode(signal("settled", thread_id, run_id))


_EVENT = re.compile(rb"event:([0-9]{1,19})-([0-9]{1,19}):([^\n]{1,128})\n([^\n]*)\n(.*)", re.DOTALL)


class PublishedEvent(NamedTuple):
    """`run`: the run's name in keys."""

    run: bytes
    id: tuple[int, int]
    mode: bytes
    data: bytes


def read_event(payload: bytes) -> PublishedEvent | None:
    """Parses an event that the script `append` publishes on a thread's channel. Returns None for any other
    message."""
    if not payload.startswith(b"event:") or (match := _EVENT.fullmatch(payload)) is None:
        return None
    return PublishedEvent(match[3], (int(match[1]), int(match[2])), match[4], match[5])


_HINT = re.compile(rb"log:([0-9]{1,19})-([0-9]{1,19}):(.{1,128})", re.DOTALL)


def read_hint(payload: bytes) -> tuple[bytes, tuple[int, int]] | None:
    """Parses a message that the script `append` publishes on a thread's channel. Returns the run's name in
    keys and the id of the last event in its log, or None for any other message."""
    if not payload.startswith(b"log:") or (match := _HINT.fullmatch(payload)) is None:
        return None
    return match[3], (int(match[1]), int(match[2]))


def encode_hint(run: bytes, event_id: tuple[int, int]) -> bytes:
    """Returns the message that the script `append` publishes for a large event. `run`: its name in keys."""
    return b"log:%d-%d:%b" % (*event_id, run)
