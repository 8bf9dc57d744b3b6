"""Filters of searches. They are compared with every thread or cron of the caller, so their bounds are tighter
than those of stored values."""

from __future__ import annotations

from typing import Annotated, TypeAlias, cast

from pydantic import AfterValidator, Field

from coordinator.gateway.wire.json import encoded
from stores.json_values import Json, JsonObject

MAX_BYTES = 4096
MAX_VALUES = 100
MAX_ELEMENTS = 20


def _check_size(part: JsonObject) -> JsonObject:
    _check_values(part)
    if (size := len(encoded(part))) > MAX_BYTES:
        raise ValueError(f"may have {MAX_BYTES} bytes as JSON, not {size}")
    return part


def _check_values(part: JsonObject) -> None:
    values: list[Json] = [part]
    for value in values:  # the loop appends to the list
        if isinstance(value, dict):
            values += cast("JsonObject", value).values()
        elif isinstance(value, list):
            elements = cast("list[Json]", value)
            if len(elements) > MAX_ELEMENTS:
                raise ValueError(f"may have lists of {MAX_ELEMENTS} elements, not of {len(elements)}")
            values += elements
        if len(values) > MAX_VALUES + 1:
            raise ValueError(f"may have {MAX_VALUES} values, at all depths")


Filter: TypeAlias = Annotated[
    JsonObject,
    AfterValidator(_check_size),
    Field(
        description="Contained in the matching items: objects by key, lists by element. At most"
        f" {MAX_BYTES} bytes, {MAX_VALUES} values and {MAX_ELEMENTS} elements of a list"
    ),
]
