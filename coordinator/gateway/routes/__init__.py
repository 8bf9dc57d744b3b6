"""The routers of the API, one for each kind of resource. `app` assembles them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from coordinator.gateway.wire.documents import Problem
from coordinator.gateway.wire.json import StrictRoute, TolerantJsonResponse

_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {  # Any: as FastAPI has it
    status: {"model": Problem, "description": text}
    for status, text in (
        (401, "No valid key"),
        (403, "The key lacks the permission"),
        (404, "Not found, or owned by another user"),
        (409, "Conflicts with existing data"),
        (422, "Invalid request"),
        (429, "A limit is reached: Retry-After"),
        (503, "The worker drains, or the store is unavailable: Retry-After"),
    )
}


def router_of(tag: str) -> APIRouter:
    """Returns a router with strict JSON and the error responses that every route may have."""
    return APIRouter(
        tags=[tag],
        route_class=StrictRoute,
        responses=_ERROR_RESPONSES,
        default_response_class=TolerantJsonResponse,
    )
