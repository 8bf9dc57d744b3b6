"""When a cron is due: five fields, in a time zone, as Debian's cron reads them."""

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
    """A minute is the finest step. Six fields are refused: of the programs that take them, some read
    seconds first and some last. Raises InvalidArgument; also for one that never comes."""

    def __init__(self, text: str, timezone: str | None) -> None:
        expression = _NAMES.get(text.strip().lower(), text)
        fields = len(expression.split())
        if len(text) > MAX_LENGTH or fields != _FIELDS:
            raise InvalidArgument("schedule", f"must have {_FIELDS} fields (minute to weekday), not {fields}")
        self._expression = expression
        self._zone = _zone(timezone)
        self.after(0)

    def after(self, micros: int) -> int:
        """The first moment after that one, in microseconds since 1970. Where the clocks are put forward
        over it, right after; where they are put back, once: see cronsim."""
        moment = (_EPOCH + timedelta(microseconds=micros)).astimezone(self._zone)
        try:
            following = next(CronSim(self._expression, moment))
        except (CronSimError, ValueError, OverflowError) as error:
            raise InvalidArgument("schedule", f"{error}: {self._expression!r:.80}") from None
        except StopIteration:
            raise InvalidArgument("schedule", "never comes") from None
        return (following.astimezone(UTC) - _EPOCH) // _MICROSECOND


def _zone(name: str | None) -> tzinfo:
    """None = UTC, for which no database is needed."""
    if name is None or name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no name of a zone, a folder, not there
        raise InvalidArgument("timezone", "must be a name of the IANA database, as Europe/Berlin") from None
