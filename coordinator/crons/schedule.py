"""Schedules of crons: five fields in a time zone, with the semantics of Debian's cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from coordinator.errors import InvalidArgument

MAX_LENGTH = 256
_FIELDS = 5
_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Schedule:
    """A schedule has a resolution of one minute. Six fields are refused, because programs disagree on whether
    seconds are the first or the last one. Raises InvalidArgument, also for a schedule without any moment."""

    def __init__(self, text: str, timezone: str | None) -> None:
        expression = _NAMES.get(text.strip().lower(), text)
        fields = len(expression.split())
        if len(text) > MAX_LENGTH or fields != _FIELDS:
            raise InvalidArgument("schedule", f"must have {_FIELDS} fields (minute to weekday), not {fields}")
        self._expression = expression
        self._zone = _zone(timezone)
        self.after(0)

    def after(self, micros: int) -> int:
        """Returns the first moment after `micros` (both µs since 1970). A moment that a change to daylight
        saving time skips is due right after the change; a repeated one is due once (see cronsim)."""
        moment = (_EPOCH + timedelta(microseconds=micros)).astimezone(self._zone)
        try:
            following = next(CronSim(self._expression, moment))
        except (CronSimError, ValueError, OverflowError) as error:
            raise InvalidArgument("schedule", f"{error}: {self._expression!r:.80}") from None
        except StopIteration:
            raise InvalidArgument("schedule", "is never due") from None
        return (following.astimezone(UTC) - _EPOCH) // _MICROSECOND


def _zone(name: str | None) -> tzinfo:
    """Returns the zone of that name. None = UTC, which needs no time zone database."""
    if name is None or name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # malformed name, name of a folder, unknown name
        raise InvalidArgument("timezone", "must be a name of the IANA database, as Europe/Berlin") from None
