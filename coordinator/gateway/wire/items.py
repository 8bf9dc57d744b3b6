"""Request bodies and response documents of the store. See `coordinator.gateway.wire.bodies`."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field

from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.wire.bodies import ActingBody, Body, JsonObject, Limit, Offset, Short
from coordinator.gateway.wire.filters import Filter
from coordinator.gateway.wire.json import Json, encoded

MAX_LABELS = 64
MAX_QUERY = 10_000
_OPERATORS = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
_MAX_TTL = 60 * 24 * 366 * 100  # minutes


def check_namespace(labels: list[str]) -> list[str]:
    for label in labels:
        if not label or "." in label:
            raise ValueError("labels are texts that are not empty and have no periods")
    return labels


def _check_not_empty(labels: list[str]) -> list[str]:
    if not labels:
        raise ValueError("needs one label at least")
    if labels[0] == "langgraph":
        raise ValueError("the first label langgraph is reserved")
    return labels


def _check_key(key: str) -> str:
    """Graphs may use any key that databases can hold."""
    if "\0" in key or (not key.isprintable() and any("\ud800" <= char <= "\udfff" for char in key)):
        raise ValueError("must not contain NUL or lone surrogates")
    return key


def _check_value(value: JsonObject) -> JsonObject:
    if b"\\u0000" in encoded(value):
        raise ValueError("must not contain NUL")
    return value


def _check_filter(condition: JsonObject) -> JsonObject:
    for key, value in condition.items():
        if not key or not all(part.isidentifier() for part in key.replace("-", "_").split(".")):
            raise ValueError(f"the key {key[:64]!r} may have letters, digits, underscores, hyphens, periods")
        if isinstance(value, dict):
            unknown = cast("JsonObject", value).keys() - _OPERATORS
            if unknown:
                known = ", ".join(sorted(_OPERATORS))
                raise ValueError(f"unknown operator {min(unknown)[:64]!r} of {key[:64]!r}; known: {known}")
    return condition


Label = Annotated[str, Field(max_length=255)]
Labels = Annotated[list[Label], Field(max_length=MAX_LABELS, fail_fast=True), AfterValidator(check_namespace)]
Key = Annotated[str, AfterValidator(_check_key), Field(min_length=1, max_length=255)]
NamespaceOfItem = Annotated[Labels, AfterValidator(_check_not_empty)]
ItemFilter = Annotated[Filter, AfterValidator(_check_filter)]


class ItemDelete(ActingBody):
    namespace: NamespaceOfItem
    key: Key


class ItemPut(ItemDelete):
    """`index`: the fields for semantic search; false = none, absent = those of the store."""

    value: Annotated[JsonObject, AfterValidator(_check_value)]
    index: Literal[False] | Annotated[list[Label], Short] | None = None
    ttl: float | None = Field(default=None, gt=0, le=_MAX_TTL, description="Minutes; absent = the store's")


class ItemSearch(Body):
    namespace_prefix: Labels = Field(default_factory=list)
    filter: ItemFilter | None = Field(
        default=None, description="Values by key, or operators: $eq, $ne, $gt, $gte, $lt, $lte"
    )
    limit: Limit = 10
    offset: Offset = 0
    query: str | None = Field(default=None, max_length=MAX_QUERY, description="Semantic search")
    refresh_ttl: bool | None = None


class NamespaceSearch(Body):
    prefix: Labels | None = Field(default=None, description="Labels, or `*` for any")
    suffix: Labels | None = None
    max_depth: int | None = Field(default=None, ge=1, le=MAX_LABELS)
    limit: Limit = 100
    offset: Offset = 0


class Item(LazyModel):
    namespace: list[str]
    key: str
    value: JsonObject
    created_at: str
    updated_at: str
    score: Json = Field(default=None, description="Of a semantic search")


class FoundItems(LazyModel):
    items: list[Item]


class Namespaces(LazyModel):
    namespaces: list[list[str]]
