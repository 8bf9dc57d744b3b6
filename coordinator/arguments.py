"""Validation of arguments. Every check raises InvalidArgument with the argument's name; nothing is written
before."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from enum import StrEnum
from os import PathLike
from typing import Any, Literal, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from coordinator.errors import InvalidArgument, UnsupportedStrategyError
from coordinator.event_log import TAIL, EventId
from coordinator.schemas import CancelAction, Cause, CheckpointRef, DisconnectMode, Json, RunStatus, Strategy
from coordinator.urls import redact_url
from stores.json_values import JsonMapping, JsonObject
from stores.rows import COUNTERS, MESSAGES
from stores.times import instant

T = TypeVar("T")

MAX_ID = 255
MAX_MODEL_NAME = 128
MAX_URL = 2048
MAX_EXTRA = 16 * 1024  # bytes
MAX_DEPTH = 200
MAX_TIME_LIMIT = 10 * 366 * 86_400  # s; its microseconds must fit 64 bits

TimeLimit: TypeAlias = float | Literal["default"] | None
"""Seconds; None = no limit; "default" = the limit of the settings."""

TimeToLive: TypeAlias = float | Literal["unchanged"] | None
"""Seconds; None = never expires."""


def check_id(argument: str, value: object) -> str:
    """1 to 255 characters, no control characters, encodable."""
    if not isinstance(value, str):
        raise InvalidArgument(argument, f"must be a str, not {type(value).__name__}")
    if not value or len(value) > MAX_ID:
        raise InvalidArgument(argument, f"must have 1 to {MAX_ID} characters, not {len(value)}")
    return _without_controls(argument, value)


def check_mode(value: object) -> str:
    """The name of an event, of any length: without control characters, encodable, not empty."""
    if not isinstance(value, str):
        raise InvalidArgument("mode", f"must be a str, not {type(value).__name__}")
    if not value:
        raise InvalidArgument("mode", "must not be empty")
    return _without_controls("mode", value)


def _without_controls(argument: str, value: str) -> str:
    if not value.isprintable() and any(_is_control(char) for char in value):
        raise InvalidArgument(argument, "must not contain control characters or lone surrogates")
    return value


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in {0x2028, 0x2029}


def check_optional_id(argument: str, value: object) -> str | None:
    return None if value is None else check_id(argument, value)


def check_text(argument: str, value: object) -> str | None:
    """Free text or None. A lone surrogate is escaped: databases store UTF-8."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidArgument(argument, f"must be a str or None, not {type(value).__name__}")
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def check_needed_text(argument: str, value: object) -> str:
    text = check_text(argument, value)
    if text is None:
        raise InvalidArgument(argument, "must be a str, not None")
    return text


def check_instance(argument: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise InvalidArgument(argument, f"must be a {kind.__name__}, not {type(value).__name__}")
    return value


def check_url(argument: str, value: object) -> str:
    """1 to 2048 visible ASCII characters, which begin with http:// or https:// and a host."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_URL or not value.isascii():
        raise InvalidArgument(argument, f"must be a URL of 1 to {MAX_URL} ASCII characters")
    if not value.isprintable() or " " in value:
        raise InvalidArgument(argument, "must not contain blanks or control characters")
    if not _is_http(value):
        raise InvalidArgument(
            argument, "must be a URL with http or https and a host, such as https://a.example"
        )
    return value


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def check_model_name(value: object) -> str | None:
    """Strips the name and cuts it to 128 characters; None stays None."""
    text = check_text("model_name", value)
    return None if text is None else text.strip()[:MAX_MODEL_NAME]


def check_strategy(value: object) -> Strategy:
    try:
        return Strategy(cast("str", value))
    except ValueError:
        raise UnsupportedStrategyError(value, Strategy) from None


def check_action(value: object) -> CancelAction:
    return _member("action", value, CancelAction)


def check_cause(value: object) -> Cause:
    return _member("cause", value, Cause)


def check_status(value: object) -> RunStatus:
    return _member("status", value, RunStatus)


def check_statuses(value: object) -> tuple[str, ...]:
    return check_members("statuses", value, RunStatus)


def check_members(argument: str, value: object, enum: type[StrEnum]) -> tuple[str, ...]:
    """Accepts members of `enum` and their values."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_member(argument, one, enum).value for one in cast("list[object]", value))
    raise InvalidArgument(argument, f"must be a list of {argument}, not {type(value).__name__}")


def check_choice(argument: str, value: object, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgument(argument, f"{value!r:.50} is not one of {', '.join(choices)}")
    return value


def check_on_pending_cancel(value: object) -> Literal["cancel", "raise"]:
    return "raise" if check_choice("on_pending_cancel", value, ("cancel", "raise")) == "raise" else "cancel"


def check_disconnect(value: object) -> DisconnectMode:
    return _member("on_disconnect", value, DisconnectMode)


def _member(argument: str, value: object, enum: Any) -> Any:  # Any: any enum, and a member of it
    try:
        return enum(value)
    except ValueError:
        names = ", ".join(member.value for member in enum)
        raise InvalidArgument(argument, f"{value!r} is not one of {names}") from None


def check_mapping(argument: str, value: object) -> JsonObject:
    """A dict with str keys; None means empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(argument, f"must be a dict or None, not {type(value).__name__}")
    mapping = cast("dict[Any, Any]", value)  # Any: keys are checked below
    for key in mapping:
        if not isinstance(key, str):
            raise InvalidArgument(argument, f"keys must be str, not {type(key).__name__}")
    return mapping


def check_metadata(value: object, argument: str = "metadata") -> JsonObject:
    """Metadata is queried, so it must be JSON: finite numbers, str keys, bounded depth."""
    mapping = check_mapping(argument, value)
    if mapping:
        try:
            json.dumps(mapping, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(argument, f"must be JSON: {error}") from None
        if not _has_plain_keys(mapping, MAX_DEPTH):
            raise InvalidArgument(argument, f"must be JSON: str keys, at most {MAX_DEPTH} levels deep")
    return mapping


def _has_plain_keys(value: object, depth: int) -> bool:
    if depth == 0:
        return False
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)  # Any: keys are checked below
        return all(isinstance(key, str) and _has_plain_keys(item, depth - 1) for key, item in items.items())
    if isinstance(value, (list, tuple)):
        return all(_has_plain_keys(item, depth - 1) for item in cast("list[object]", value))
    return True


def check_extra(value: object) -> JsonObject:
    """Accepts a JSON object of at most MAX_EXTRA bytes."""
    extra = check_metadata(value, "extra")
    if len(json.dumps(extra, separators=(",", ":"))) > MAX_EXTRA:
        raise InvalidArgument("extra", f"must be at most {MAX_EXTRA} bytes of JSON")
    return extra


def check_counters(fields: JsonMapping) -> JsonObject:
    """Validates the known fields of a completion or a progress snapshot; unknown names pass unchecked."""
    checked = dict(fields)
    for name in COUNTERS:
        value = fields.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63
        ):
            raise InvalidArgument(name, f"must be a whole number of 64 bits or None, not {value!r:.40}")
    for name in (*MESSAGES, "error", "model_name"):
        if name in fields:
            checked[name] = (
                check_model_name(fields[name]) if name == "model_name" else check_text(name, fields[name])
            )
    if fields.get("extra") is not None:
        checked["extra"] = check_extra(fields["extra"])
    if "status" in fields:
        checked["status"] = check_status(fields["status"]).value
    return checked


def check_json(argument: str, value: object) -> Json:
    """Accepts JSON values: finite numbers, str keys, at most MAX_DEPTH levels."""
    check_metadata({"value": value}, argument)
    return value


def check_limit(argument: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(argument, f"must be a whole number, 0 or more, not {value!r}")
    return min(value, 2**31)


def check_event_id(argument: str, value: object) -> EventId | None:
    """`<fence>-<number>`, as in an event or a gap; None = before the first event, `$` = after the last."""
    if value is None:
        return None
    if value == "$":
        return TAIL
    if not isinstance(value, str):
        raise InvalidArgument(argument, f"must be a str or None, not {type(value).__name__}")
    try:
        return EventId.parse(value)
    except ValueError as error:
        raise InvalidArgument(argument, f"{error}, not {value!r:.50}") from None


def check_checkpoint(argument: str, value: object) -> CheckpointRef | None:
    if value is None:
        return None
    if not isinstance(value, CheckpointRef):
        raise InvalidArgument(argument, f"must be a CheckpointRef or None, not {type(value).__name__}")
    check_optional_id(argument, value.checkpoint_id)
    check_text(argument, value.checkpoint_ns)
    return value


def check_modes(argument: str, value: object) -> frozenset[str] | None:
    """One mode or several; None = all modes."""
    if value is None:
        return None
    if isinstance(value, str):
        return frozenset({check_id(argument, value)})
    if isinstance(value, (list, tuple, set, frozenset)):
        return frozenset(check_id(argument, mode) for mode in cast("list[object]", value))
    raise InvalidArgument(argument, f"must be a list of modes, not {type(value).__name__}")


def check_seconds(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise InvalidArgument(argument, f"must be a number of seconds, 0 or more, not {value!r}")
    return float(value)


def check_time_limit(argument: str, value: object, default: float | None) -> float | None:
    if value == "default":
        return default
    if value is None:
        return None
    seconds = check_seconds(argument, value)
    if not 0 < seconds <= MAX_TIME_LIMIT or math.isnan(seconds):
        raise InvalidArgument(argument, f"must be more than 0 and at most {MAX_TIME_LIMIT} s, or None")
    return seconds


def check_ttl(argument: str, value: object) -> int | None:
    """Returns milliseconds; None = never expires."""
    seconds = check_time_limit(argument, value, None)
    return None if seconds is None else max(1, round(seconds * 1000))


def check_delay(argument: str, value: object) -> float | None:
    """Returns seconds, or None for no delay."""
    if value is None:
        return None
    seconds = check_seconds(argument, value)
    if seconds > MAX_TIME_LIMIT:
        raise InvalidArgument(argument, f"must be at most {MAX_TIME_LIMIT} s")
    return seconds or None


def check_grace(value: object) -> float | None:
    """Returns seconds; None = the default of the settings."""
    if value is None:
        return None
    seconds = check_seconds("grace", value)
    if seconds > MAX_TIME_LIMIT:
        raise InvalidArgument("grace", f"must be at most {MAX_TIME_LIMIT} s")
    return seconds


def check_epoch(value: object) -> int | None:
    """None = all workers."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidArgument("epoch", f"must be the number of a worker's epoch, not {value!r:.40}")
    return value


def check_flag(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(argument, f"must be a bool, not {type(value).__name__}")
    return value


MAX_RETRIES = 1000


def check_retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        raise InvalidArgument("retries", f"must be an integer from 0 to {MAX_RETRIES}, not {value!r:.80}")
    return value


def check_instant(argument: str, value: object) -> str | None:
    """An ISO 8601 time; without an offset it is UTC."""
    if value is None:
        return None
    if not isinstance(value, str) or instant(value) is None:
        raise InvalidArgument(argument, f"must be an ISO 8601 time, not {value!r}")
    return value


# Any: a store of the caller's own has any type, see stores.plain.
def check_store(store: Any) -> Any:
    """Returns the store, or None. Raises TypeError for a URL, a path, and an object without record
    operations, because their first use would fail with an unrelated error."""
    if isinstance(store, (str, bytes, PathLike)):
        text = os.fsdecode(cast("str | bytes | PathLike[str]", store))
        url = redact_url(text) if "://" in text else f"sqlite:///{text}"
        raise TypeError(
            f"RunManager takes a store, not a URL or a path: write `async with open_coordinator({url!r}) as"
            " manager:`"
        )
    if store is not None and (isinstance(store, type) or not callable(getattr(store, "put", None))):
        kind = f"the class {store.__name__}" if isinstance(store, type) else f"a {type(store).__name__}"
        raise TypeError(
            f"RunManager takes a store, such as SQLiteStore(path), not {kind}; keyword arguments are for the"
            " rest, and `open_coordinator` builds all from a URL"
        )
    return store
