"""What the user's functions decide about the store of graphs.

They may change the namespace and the other parts of a request; the endpoint restricts the caller to its
namespaces in addition. A filter applies to the values of a search, and has no meaning elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from coordinator.gateway.permits import Answer, GuardedRequest, Rule, object_in
from stores.json_values import Json, JsonObject


def _with_body(action: str, named: str, keys: Mapping[str, Json]) -> Rule:
    """`named`: what the body calls the namespace. `keys`: the other keys with their defaults."""

    async def rule(request: GuardedRequest) -> Answer:
        fields = request.fields
        value: JsonObject = {"namespace": _labels(fields.get(named))}
        value |= {key: fields.get(key, default) for key, default in keys.items()}
        given = await request.permit("store", action, value, frozenset(value))
        for key in keys:
            if value.get(key) != keys[key] or key in fields:
                fields[key] = value.get(key)
        labels = value.get("namespace")
        fields[named] = None if labels is None else list(cast("tuple[Json, ...]", labels))
        if action != "search" or not given:
            return None
        if given.contained:
            raise HTTPException(500, "the filter of store.search must compare for equality")
        narrowed = given.narrowed(object_in(fields.get("filter") or {}))
        if narrowed is None:
            return JSONResponse({"items": []})
        fields["filter"] = narrowed
        return None

    return rule


def _labels(given: Json) -> tuple[Json, ...] | None:
    """Returns a tuple, as functions get it; what is no list is refused by the endpoint."""
    return tuple(cast("list[Json]", given)) if isinstance(given, list) else given


async def get_item(request: GuardedRequest) -> Answer:
    namespace = ".".join(request.query.getlist("namespace"))
    refresh = request.query.get("refresh_ttl")
    value: JsonObject = {
        "namespace": tuple(namespace.split(".")),
        "key": request.query.get("key"),
        "refresh_ttl": None if refresh is None else refresh.lower() == "true",
    }
    before = dict(value)
    await request.permit("store", "get", value, frozenset(value))
    if {key: value.get(key) for key in before} != before:
        query = {"namespace": ".".join(map(str, value["namespace"])), "key": str(value["key"])}
        if value["refresh_ttl"] is not None:
            query["refresh_ttl"] = str(bool(value["refresh_ttl"])).lower()
        request.replace_query(urlencode(query))
    return None


_SEARCHED: JsonObject = {"filter": None, "limit": 10, "offset": 0, "query": None, "refresh_ttl": None}
_LISTED: JsonObject = {"suffix": None, "max_depth": None, "limit": 100, "offset": 0}

RULES: dict[tuple[str, str], Rule] = {
    ("PUT", "/store/items"): _with_body(
        "put", "namespace", {"key": None, "value": None, "index": None, "ttl": None}
    ),
    ("GET", "/store/items"): get_item,
    ("DELETE", "/store/items"): _with_body("delete", "namespace", {"key": None}),
    ("POST", "/store/items/search"): _with_body("search", "namespace_prefix", _SEARCHED),
    ("POST", "/store/namespaces"): _with_body("list_namespaces", "prefix", _LISTED),
}
