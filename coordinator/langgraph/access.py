"""Authentication and authorisation by the user's functions: the types that a gateway and `auth` share.
Imports nothing of LangGraph, so that a gateway without the extra may import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from stores.json_values import Json, JsonObject

PARAMETERS = frozenset(
    {
        "authorization",
        "headers",
        "method",
        "path",
        "path_params",
        "query_params",
        "request",
        "scope",
        "scopes",
        "user",
    }
)
"""What a function that authenticates may take, by name."""


class Refused(Exception):
    """The request is refused with this status, detail and headers."""

    def __init__(self, status: int, detail: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class UnusableFilter(ValueError):
    """A filter that cannot be enforced for every request."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that a function has authenticated. `user`: the object that other functions of the user get."""

    user_id: str
    permissions: tuple[str, ...] = ()
    attributes: Mapping[str, Json] = field(default_factory=dict[str, Json], hash=False)
    user: object = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on the metadata of a resource, all of which must hold. `equal`: scalars by key. `contained`:
    elements of lists by key."""

    equal: Mapping[str, Json] = field(default_factory=dict[str, Json])
    contained: Mapping[str, list[Json]] = field(default_factory=dict[str, "list[Json]"])

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Filter:
        """Reads `{"key": value}`, `{"key": {"$eq": value}}` and `{"key": {"$contains": value or values}}`.
        Raises UnusableFilter for everything else, which searches could not enforce."""
        equal: JsonObject = {}
        contained: dict[str, list[Json]] = {}
        for key, condition in given.items():
            if key.startswith("$"):
                raise UnusableFilter(f"the operator {key} is not supported")
            operator, value = _condition(key, condition)
            if operator == "$contains":
                contained[key] = _scalars(
                    key, cast("list[Json]", value) if isinstance(value, (list, tuple)) else [value]
                )
            else:
                (equal[key],) = _scalars(key, [value])
        return cls(equal, contained)

    def __bool__(self) -> bool:
        return bool(self.equal or self.contained)

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return all(
            key in metadata and _same(metadata[key], value) for key, value in self.equal.items()
        ) and all(
            isinstance(metadata.get(key), list) and all(_within(metadata[key], value) for value in values)
            for key, values in self.contained.items()
        )

    def narrowed(self, metadata: JsonObject) -> JsonObject | None:
        """Returns the filter of a search by `metadata` that finds only matching resources, or None if none
        can match."""
        narrowed = dict(metadata)
        for key, value in self.equal.items():
            if key in narrowed and not _same(narrowed[key], value):
                return None
            narrowed[key] = value
        for key, values in self.contained.items():
            given: Json = narrowed.get(key, [])
            if not isinstance(given, list):
                return None
            narrowed[key] = [*cast("list[Json]", given), *values]
        return narrowed


class Handlers(Protocol):
    """The user's functions. `parameters`: what `identify` takes, a part of `PARAMETERS`."""

    @property
    def parameters(self) -> frozenset[str]: ...

    async def identify(self, arguments: Mapping[str, object]) -> Identity:
        """Raises Refused."""
        ...

    async def permit(self, identity: Identity, resource: str, action: str, value: JsonObject) -> Filter:
        """The function may change `value`. An empty filter permits every resource. Raises Refused."""
        ...


def _condition(key: str, given: object) -> tuple[str, object]:
    if not isinstance(given, Mapping):
        return "$eq", given
    operators = cast("Mapping[str, object]", given)
    if len(operators) != 1 or (operator := next(iter(operators))) not in ("$eq", "$contains"):
        raise UnusableFilter(f"the condition for {key!r} must be a value, $eq or $contains")
    return operator, operators[operator]


def _scalars(key: str, values: object) -> list[Json]:
    """Only scalars: a search compares objects and lists by what they contain, not for equality."""
    scalars = list(cast("list[Json]", values))
    if not all(isinstance(value, (str, int, float, bool)) for value in scalars):
        raise UnusableFilter(f"the condition for {key!r} must compare with texts, numbers or truth values")
    return scalars


def _same(one: Json, other: Json) -> bool:
    """`True` is not 1, as in JSON."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _within(values: Json, value: Json) -> bool:
    return any(_same(each, value) for each in cast("list[Json]", values))
