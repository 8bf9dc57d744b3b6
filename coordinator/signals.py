"""Encoding of signals: JSON of at most `MAX_MESSAGE_BYTES`, strictly validated.

Messages are untrusted: reading never raises, and its cost is bounded by `MAX_MESSAGE_BYTES`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from coordinator.notifier import MAX_MESSAGE_BYTES, Signal


def signal(
    kind: Literal["cancel", "claim", "settled"], thread_id: str | None = None, run_id: str | None = None
) -> Signal:
    """Build a signal with these ids; without ids if they are not valid in a signal (receivers then re-read
    all)."""
    try:
        return Signal(kind=kind, thread_id=thread_id, run_id=run_id)
    except ValidationError:
        return Signal(kind=kind)


def encode(message: Signal) -> bytes:
    """Encode to at most `MAX_MESSAGE_BYTES`, readable by `SignalReader.read`. Ids that do not fit are
    omitted."""
    if not _holds_nul(message):
        payload = message.model_dump_json(exclude_none=True).encode()
        if len(payload) <= MAX_MESSAGE_BYTES:
            return payload
    return Signal(kind=message.kind).model_dump_json(exclude_none=True).encode()


class SignalReader:
    """Reads the messages of a channel. `rejected` counts dropped messages: too long, malformed or unknown."""

    def __init__(self) -> None:
        self.rejected = 0

    def read(self, payload: bytes) -> Signal | None:
        """Return the signal, or None if the message is rejected. Never raises."""
        if len(payload) <= MAX_MESSAGE_BYTES:
            try:
                message = Signal.model_validate_json(payload)
            except ValueError:
                pass
            else:
                if not _holds_nul(message):
                    return message
        self.rejected += 1
        return None


def _holds_nul(message: Signal) -> bool:
    # No store can hold such an id: PostgreSQL refuses NUL in text, so a query for it would fail.
    return "\0" in (message.thread_id or "") or "\0" in (message.run_id or "")
