"""The context of a run: from its request and its assistant, in the form that the graph's schema has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import cast

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from coordinator.assistants.requests import cleaned
from coordinator.errors import InvalidArgument
from coordinator.langgraph.graph import Graph
from coordinator.schemas import Json, RunRequest
from stores.json_values import JsonObject


@dataclass(frozen=True, slots=True)
class Preset:
    """What an assistant adds to the requests of its runs, which take precedence."""

    config: JsonObject = field(default_factory=JsonObject)
    context: JsonObject = field(default_factory=JsonObject)

    def config_of(self, request: RunRequest) -> JsonObject:
        """Return the merged config. Keys of the context are also in `configurable`, where older graphs read
        them; `configurable` takes precedence. `request` must be cleaned."""
        own, requested = self.config, cast("JsonObject", request.config or {})
        merged: JsonObject = {**own, **requested}
        merged["metadata"] = {**(own.get("metadata") or {}), **(requested.get("metadata") or {})}
        merged["configurable"] = {
            **_as_configurable(self.context),
            **(own.get("configurable") or {}),
            **_as_configurable(request.context),
            **(requested.get("configurable") or {}),
        }
        if "tags" in own and "tags" in requested:
            merged["tags"] = [*own["tags"], *requested["tags"]]
        return merged

    def context_of(self, request: RunRequest) -> RequestedContext:
        """Return the merged context. Where a request, or the preset, has none, its `configurable` counts as
        the context. `request` must be cleaned."""
        context = cast("object", request.context)
        if context is not None and not isinstance(context, dict):
            return RequestedContext(context)
        given = cast("JsonObject", context or {})
        own: JsonObject = self.context or self.config.get("configurable") or {}
        requested: JsonObject = given or cast("JsonObject", request.config or {}).get("configurable") or {}
        return RequestedContext({**own, **requested}, frozenset(self.context) | frozenset(given))


@dataclass(frozen=True, slots=True)
class RequestedContext:
    """`values`: an object, or whatever the request has. `named`: the keys that were given as context, and not
    as `configurable`, which also has keys of other purposes."""

    values: Json = None
    named: frozenset[str] = frozenset()

    def for_graph(self, graph: Graph) -> Json:
        """Return the argument `context` of the graph. A schema that is a class gets an object, be it empty:
        its fields may have defaults."""
        schema, values = graph.context_schema, self.values
        if isinstance(values, dict):
            given, known = cast("JsonObject", values), _fields_of(schema)
            if known is not None:
                given = {key: item for key, item in given.items() if key in known or key in self.named}
            return given or ({} if _is_class(schema) else None)
        return {} if values is None and _is_class(schema) else values

    def check(self, graph: Graph) -> None:
        """Raises InvalidArgument if the graph's schema refuses the context."""
        context, schema = self.for_graph(graph), cast("Json", graph.context_schema)
        if not _is_class(schema) or not isinstance(context, dict):
            return
        try:
            cast("Callable[..., object]", schema)(**context)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidArgument("context", f"{where}: {first['msg']}") from None
        except TypeError as error:
            raise InvalidArgument("context", str(error)) from None


def _is_class(schema: object) -> bool:
    """The engine makes an object of such a schema."""
    if not isinstance(schema, type):
        return False
    return issubclass(cast("type[object]", schema), BaseModel) or is_dataclass(cast("type[object]", schema))


def _fields_of(schema: object) -> frozenset[str] | None:
    """Return None if any key may be in the context."""
    if not isinstance(schema, type):
        return None
    kind = cast("type[object]", schema)
    if issubclass(kind, BaseModel):
        if kind.model_config.get("extra") == "allow":
            return None
        aliases = (one.alias for one in kind.model_fields.values())
        return frozenset(kind.model_fields) | frozenset(alias for alias in aliases if alias is not None)
    if is_dataclass(kind):
        return frozenset(one.name for one in fields(kind) if one.init)
    return frozenset(kind.__annotations__) if is_typeddict(kind) else None


def _as_configurable(context: Json) -> JsonObject:
    """Return the keys of a context without those that the server sets in `configurable`."""
    if not isinstance(context, dict):
        return {}
    return cast("JsonObject", cleaned(RunRequest(config={"configurable": context})).config)["configurable"]
