"""The types in the annotations of a graph's state: values of these types are restored from checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from typing import get_args, get_type_hints

from langgraph._internal._serde import build_serde_allowlist
from pydantic import BaseModel
from typing_extensions import is_typeddict

from coordinator.langgraph.graph import Graph
from coordinator.schemas import Json


def types_of(graph: Graph) -> set[tuple[str, ...]]:
    """Return module and name of all types in the states of the graph and its subgraphs."""
    types: set[tuple[str, ...]] = set()
    for one in (graph, *(subgraph for _, subgraph in graph.get_subgraphs(recurse=True))):
        builder: Json = getattr(one, "builder", None)
        schemas: list[Json] = [] if builder is None else [*builder.schemas, builder.context_schema]
        channels: dict[str, object] = dict(getattr(one, "channels", {}))
        annotated = [getattr(channel, "ValueType", None) for channel in channels.values()]
        tuples = _named_tuples([*schemas, *annotated])
        types |= {(each.__module__, each.__name__) for each in tuples}
        fields: list[Json] = [kind for each in tuples for kind in _hints_of(each)]
        types |= build_serde_allowlist(schemas=[*schemas, *fields], channels=channels)
    return types


def _named_tuples(annotations: Iterable[object]) -> list[type[object]]:
    """Return those that the annotations contain, at any depth. The engine collects models, dataclasses and
    enumerations, but no named tuples."""
    seen: dict[int, object] = {}
    left = list(annotations)
    while left:
        kind = left.pop()
        if id(kind) not in seen:
            seen[id(kind)] = kind
            left += get_args(kind) or (_hints_of(kind) if isinstance(kind, type) else ())
    return [kind for kind in seen.values() if isinstance(kind, type) and _is_named_tuple(kind)]


@lru_cache(maxsize=1_000)
def _hints_of(kind: type[object]) -> tuple[object, ...]:
    """Return the annotations of the fields of a type that has fields. Cached, because a factory makes a graph
    of the same types for each run."""
    has_fields = is_typeddict(kind) or dataclasses.is_dataclass(kind) or _is_named_tuple(kind)
    if not has_fields and not issubclass(kind, BaseModel):
        return ()
    try:
        return tuple(get_type_hints(kind).values())
    except Exception:  # noqa: BLE001 - names that exist for the type checker only
        return ()


def _is_named_tuple(kind: type[object]) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)
