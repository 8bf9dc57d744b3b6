"""One router for each noun of the API. `app` puts them together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from coordinator.gateway.wire.documents import Problem
from coordinator.gateway.wire.json import JsonAnswer, StrictRoute

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (401, "No valid key"),
        (403, "The key may not do this"),
        (404, "Not found, or somebody else's"),
        (409, "In the way of what is there"),
        (422, "Not as it has to be"),
        (429, "Too much at once: Retry-After"),
        (503, "Draining, or the store is away: Retry-After"),
    )
}


def router_of(noun: str) -> APIRouter:
    """Every router of the API: strict JSON in, and the refusals that each route may answer with."""
    return APIRouter(
        tags=[noun], route_class=StrictRoute, responses=_REFUSALS, default_response_class=JsonAnswer
    )
