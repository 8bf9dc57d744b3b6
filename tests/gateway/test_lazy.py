"""Routes that are built at their first request."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient

from coordinator import RunManager
from coordinator.gateway import create_gateway
from coordinator.gateway.lazy import LazyModel, LazyRoute
from coordinator.gateway.wire.json import StrictRoute
from coordinator.gateway.wire.runs import RunCreate


class Shape(LazyModel):
    corners: int


class Solid(Shape):
    faces: int


async def changed(body: Solid, scale: int = 1) -> Shape:
    return Shape(corners=body.corners * scale)


def route() -> LazyRoute:
    return LazyRoute("/shapes/{name}", changed, methods=["post"])


def test_lazy_route_matches_before_it_is_built() -> None:
    one = route()
    scope: dict[str, Any] = {"type": "http", "path": "/shapes/cube", "method": "POST", "headers": []}
    assert one.matches(scope)[0].name == "FULL"
    assert one.matches({**scope, "method": "GET"})[0].name == "PARTIAL"
    assert one.matches({**scope, "path": "/other"})[0].name == "NONE"
    assert "app" not in vars(one)


def test_built_route_equals_a_route_of_fastapi() -> None:
    one, eager = route(), APIRoute("/shapes/{name}", changed, methods=["post"])
    assert one.unique_id == eager.unique_id
    assert {name for name in vars(one) if name != "_options"} == set(vars(eager))
    with pytest.raises(AttributeError, match="'LazyRoute' object has no attribute 'colour'"):
        _ = one.colour


@pytest.mark.parametrize("described_first", [False, True])
async def test_requests_and_openapi_work_in_any_order(described_first: bool) -> None:
    app = FastAPI()
    app.router.routes.append(route())
    if described_first:
        app.openapi()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://here") as client:
        answer = await client.post("/shapes/cube?scale=2", json={"corners": 8, "faces": 6})
        assert (answer.status_code, answer.json()) == (200, {"corners": 16})
        assert (await client.post("/shapes/cube", json={"corners": 8})).status_code == 422
        assert (await client.get("/shapes/cube")).status_code == 405
    assert set(app.openapi()["paths"]) == {"/shapes/{name}"}


def test_every_route_of_the_gateway_is_strict_and_lazy() -> None:
    """Except the routes of FastAPI for the OpenAPI document."""
    ours = [one for one in create_gateway(RunManager()).routes if isinstance(one, APIRoute)]
    assert len(ours) > 40
    assert [one.path for one in ours if not isinstance(one, StrictRoute)] == []


def test_models_of_the_gateway_inherit_the_deferral() -> None:
    assert issubclass(RunCreate, LazyModel)
