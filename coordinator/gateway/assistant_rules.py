"""What the user's functions decide about assistants. A filter applies to the metadata of assistants that
clients created; the metadata of registered ones is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid4

from starlette.responses import JSONResponse

from coordinator.errors import AssistantExists
from coordinator.gateway.created_assistants import client_assistant_of
from coordinator.gateway.errors import error_response
from coordinator.gateway.permits import Answer, GuardedRequest, Rule, object_in, optional_uuid
from coordinator.langgraph.access import Filter
from stores.json_values import Json, JsonObject

_SYSTEM: Mapping[str, Json] = {"created_by": "system"}
"""The metadata of every registered assistant."""
_DESCRIBED = ("graph_id", "config", "context", "name")
NOTHING_FOUND = {"X-Pagination-Total": "0"}


def uuid_of_assistant(request: GuardedRequest, name: Json) -> UUID | None:
    """Returns the assistant's UUID, as functions get it; what is no name is refused by the endpoint."""
    if not isinstance(name, str):
        return None
    return optional_uuid("assistant_id", request.services.manager.assistants.client_id(name))


async def may_run(request: GuardedRequest, name: Json) -> Answer:
    """Decides about an assistant that a client created, and that a run names, as about reading it."""
    if not isinstance(name, str) or name in request.services.manager.assistants:
        return None
    return await _check(request, name, "read", {})


async def _check(request: GuardedRequest, name: str, action: str, more: JsonObject) -> Answer:
    value: JsonObject = {"assistant_id": uuid_of_assistant(request, name), **more}
    given = await request.permit("assistants", action, value)
    if "metadata" in more:
        request.fields["metadata"] = value["metadata"]
    return await _matching(request, name, given)


async def _matching(request: GuardedRequest, name: str, given: Filter) -> Answer:
    if given and not given.matches(await _metadata_of(request, name) or {}):
        return error_response(404, f"no assistant has the name or id {name[:64]!r}")
    return None


async def _metadata_of(request: GuardedRequest, name: str) -> Mapping[str, Json] | None:
    if name in request.services.manager.assistants:
        return _SYSTEM
    created = await client_assistant_of(request.services.manager, name, request.user_id)
    return None if created is None else created.metadata


async def create_assistant(request: GuardedRequest) -> Answer:
    fields = request.fields
    known = optional_uuid("assistant_id", fields.get("assistant_id")) or uuid4()
    value: JsonObject = {
        "assistant_id": known,
        **{key: fields.get(key) for key in _DESCRIBED},
        "metadata": object_in(fields.get("metadata") or {}),
        "if_exists": fields.get("if_exists") or "raise",
    }
    given = await request.permit("assistants", "create", value)
    fields |= {"assistant_id": str(known), "metadata": value["metadata"]}
    existing = await _metadata_of(request, str(known)) if given else None
    if existing is not None and not given.matches(existing):
        raise AssistantExists(str(known))
    return None


async def read_assistant(request: GuardedRequest) -> Answer:
    return await _check(request, request.path("assistant_id"), "read", {})


async def update_assistant(request: GuardedRequest) -> Answer:
    fields = request.fields
    described: JsonObject = {key: fields.get(key) for key in _DESCRIBED}
    described["metadata"] = object_in(fields.get("metadata") or {})
    return await _check(request, request.path("assistant_id"), "update", described)


async def set_version(request: GuardedRequest) -> Answer:
    more: JsonObject = {"version": request.fields.get("version")}
    return await _check(request, request.path("assistant_id"), "update", more)


async def delete_assistant(request: GuardedRequest) -> Answer:
    return await _check(request, request.path("assistant_id"), "delete", {})


async def read_versions(request: GuardedRequest) -> Answer:
    name = request.path("assistant_id")
    given = await request.permit("assistants", "read", {"assistant_id": uuid_of_assistant(request, name)})
    refused = await _matching(request, name, given)
    return refused or (None if request.narrow(given) else JSONResponse([]))


def _search(nothing: Json) -> Rule:
    async def rule(request: GuardedRequest) -> Answer:
        fields = request.fields
        value: JsonObject = {key: fields[key] for key in ("graph_id", "limit", "offset") if key in fields}
        value["metadata"] = object_in(fields.get("metadata") or {})
        given = await request.permit("assistants", "search", value)
        fields["metadata"] = value["metadata"]
        return None if request.narrow(given) else JSONResponse(nothing, headers=NOTHING_FOUND)

    return rule


RULES: dict[tuple[str, str], Rule] = {
    ("POST", "/assistants"): create_assistant,
    ("POST", "/assistants/search"): _search([]),
    ("POST", "/assistants/count"): _search(0),
    ("GET", "/assistants/{assistant_id}"): read_assistant,
    ("PATCH", "/assistants/{assistant_id}"): update_assistant,
    ("DELETE", "/assistants/{assistant_id}"): delete_assistant,
    ("POST", "/assistants/{assistant_id}/versions"): read_versions,
    ("POST", "/assistants/{assistant_id}/latest"): set_version,
    ("GET", "/assistants/{assistant_id}/schemas"): read_assistant,
    ("GET", "/assistants/{assistant_id}/graph"): read_assistant,
    ("GET", "/assistants/{assistant_id}/subgraphs"): read_assistant,
    ("GET", "/assistants/{assistant_id}/subgraphs/{namespace}"): read_assistant,
}
