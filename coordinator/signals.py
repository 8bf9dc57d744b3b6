"""Signals as bytes: JSON of at most `MAX_MESSAGE_BYTES`, read strictly. Never pickle.

Anybody who can publish can send anything, so reading never raises and never costs more than a bounded parse.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from coordinator.notifier import MAX_MESSAGE_BYTES, Signal


def signal(
    kind: Literal["cancel", "claim", "settled"], thread_id: str | None = None, run_id: str | None = None
) -> Signal:
    """A signal that names these ids where a signal can. Else it names none: re-read everything."""
    try:
        return Signal(kind=kind, thread_id=thread_id, run_id=run_id)
    except ValidationError:
        return Signal(kind=kind)


def encode(message: Signal) -> bytes:
    """At most `MAX_MESSAGE_BYTES`, and what `SignalReader.read` takes: ids that do not fit are left out."""
    if not _holds_nul(message):
        payload = message.model_dump_json(exclude_none=True).encode()
        if len(payload) <= MAX_MESSAGE_BYTES:
            return payload
    return Signal(kind=message.kind).model_dump_json(exclude_none=True).encode()


class SignalReader:
    """Reads what arrives on a channel. `rejected` counts what was dropped: too long, malformed or unknown."""

    def __init__(self) -> None:
        self.rejected = 0

    def read(self, payload: bytes) -> Signal | None:
        """The signal, or None (and one more rejected). Never raises."""
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
    # No store can hold such an id (PostgreSQL refuses NUL in text), so asking one about it would be an error.
    return "\0" in (message.thread_id or "") or "\0" in (message.run_id or "")
