"""JSON of what graphs stream and keep: messages, models, dataclasses, interrupts, sends, sets, exceptions."""

from __future__ import annotations

import dataclasses
import json
import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta, tzinfo
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import cast

import orjson
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from coordinator.schemas import Json

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
_MAX_DEPTH = 100
"""Levels of nested values that the slow encoder follows."""

_MAX_BITS = 10_000
"""Python converts longer integers to text only on request."""


def encoded(value: object) -> bytes:
    """Return `value` as JSON in UTF-8. Raises nothing: what has no JSON is replaced by its `repr`."""
    try:
        return orjson.dumps(value, default=_simplified, option=_OPTIONS)
    except TypeError:  # integers of more than 64 bits, lone surrogates, keys of other types, too deep nesting
        return json.dumps(_plain(value, 0)).encode()


def as_json(value: object) -> Json:
    """Return a copy of `value` that consists of JSON types only."""
    try:
        return orjson.loads(orjson.dumps(value, default=_simplified, option=_OPTIONS))
    except TypeError:
        return _plain(value, 0)


def _simplified(value: object) -> object:
    """Return `value` in types that are nearer to JSON; the encoder calls this again for parts of the
    result."""
    if isinstance(value, BaseModel):
        return value.model_dump(warnings=False)
    if isinstance(value, Interrupt):
        return interrupt_fields(cast("Interrupt[Json]", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if callable(as_dict := getattr(value, "_asdict", None)) and isinstance(value, tuple):
        return as_dict()
    for kinds, simplify in _SIMPLIFIED:
        if isinstance(value, kinds):
            return simplify(value)
    return _repr(value)


def interrupt_fields(interrupt: Interrupt[Json]) -> dict[str, Json]:
    """Return the fields that clients see; the schema only if there is one."""
    fields: dict[str, Json] = {"value": interrupt.value, "id": interrupt.id}
    if interrupt.response_schema is not None:
        fields["response_schema"] = interrupt.response_schema
    return fields


_ADDRESSES = (IPv4Address, IPv4Network, IPv4Interface, IPv6Address, IPv6Network, IPv6Interface)
_SIMPLIFIED: tuple[tuple[type | tuple[type, ...], Callable[[Json], object]], ...] = (
    (Mapping, dict),
    ((set, frozenset, tuple, deque), list),
    (BaseException, lambda error: {"error": type(error).__name__, "message": _text(error, str)}),
    (Send, lambda send: {"node": send.node, "args": send.arg}),
    ((bytes, bytearray, memoryview), lambda data: b64encode(data).decode()),
    (Decimal, lambda number: float(number) if number.is_finite() else str(number)),
    (timedelta, timedelta.total_seconds),
    ((PurePath, tzinfo, *_ADDRESSES), str),
    (re.Pattern, lambda pattern: pattern.pattern),
)


def _repr(value: object) -> str:
    return _text(value, repr)


def _text(value: object, convert: Callable[[object], str]) -> str:
    try:
        return convert(value)
    except Exception:  # noqa: BLE001 - a method of the user's
        return f"<{type(value).__name__}>"


def _plain(value: object, depth: int) -> Json:
    """The slow way: the same as the fast encoder, for values that it refuses."""
    if depth > _MAX_DEPTH:
        return _repr(value)[:1000]
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {key if isinstance(key, str) else _repr(key): _plain(item, depth + 1) for key, item in items}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in cast("list[object]", value)]
    if isinstance(value, str) or (isinstance(value, int) and value.bit_length() <= _MAX_BITS):
        return value
    try:  # dates, enumerations, UUIDs, which orjson knows
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS))
    except TypeError:
        return _plain(_simplified(value), depth + 1)
