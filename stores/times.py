"""Conversions between ISO 8601 texts and microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant(text: str | None) -> int | None:
    """Returns the µs since 1970 of an ISO 8601 text (without an offset: UTC), or None for an invalid one."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def limit(text: str | None) -> int | None:
    """As `instant`, for a limit that a caller passes. Raises ValueError for an invalid text, because None
    would mean no limit."""
    micros = instant(text)
    if text is not None and micros is None:
        raise ValueError(f"{text!r} is not an ISO 8601 time")
    return micros


def stamp(text: str) -> tuple[str, int | None]:
    """Returns the text with "T" and an offset, and its instant. A text with both is unchanged; an invalid
    text is unchanged, and its instant is None."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text, None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
        text = moment.isoformat(timespec="microseconds")
    elif "T" not in text:
        text = moment.isoformat(timespec="microseconds")
    return text, (moment - _EPOCH) // _MICROSECOND


def iso(micros: int | None) -> str | None:
    """Returns ISO 8601 with "T", microseconds and an offset."""
    if micros is None:
        return None
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
