"""Between ISO 8601 texts and microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant(text: str | None) -> int | None:
    """Microseconds of an ISO 8601 text; naive means UTC; None where it cannot be read."""
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
    """As `instant`, for a limit that somebody set. Raises ValueError where it cannot be read: no limit
    at all would be the opposite of what was asked for."""
    micros = instant(text)
    if text is not None and micros is None:
        raise ValueError(f"{text!r} is not an ISO 8601 time")
    return micros


def stamp(text: str) -> tuple[str, int | None]:
    """(the text with "T" and an offset, its instant). What has both keeps its form; what cannot be
    read stays as it is, without an instant."""
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
    """ISO 8601 with "T", microseconds and an offset."""
    if micros is None:
        return None
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds")
