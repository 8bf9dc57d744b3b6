"""Probes of load balancers and clients, which need no key. Exactly the routes of this router are public;
`create_gateway` adds it before all others and without a prefix."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Response

from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.wire.json import StrictRoute

router = APIRouter(tags=["probes"], route_class=StrictRoute)


class Ok(LazyModel):
    ok: bool = True
    draining: bool | None = None
    """True while the worker drains: it admits no runs. Absent otherwise."""


class Info(LazyModel):
    version: str
    flags: dict[str, bool]


class Live(LazyModel):
    status: Literal["live"] = "live"


class Ready(LazyModel):
    status: Literal["ready", "not ready"]


@router.get("/ok", response_model_exclude_none=True)
async def ok(services: ServicesIn) -> Ok:
    """This process serves requests; `draining` is present while it admits no runs. Whether it accepts new
    runs is in `/coordinator/health/ready`."""
    return Ok(draining=services.manager.worker.draining or None)


@router.get("/info")
async def info() -> Info:
    """The version, and the feature flags that clients of the API read."""
    return Info(
        version=version("run-coordinator"), flags={"assistants": True, "crons": True, "langsmith": False}
    )


@router.get("/coordinator/health/live")
async def live() -> Live:
    """The event loop runs. A supervisor that gets no response restarts the process."""
    return Live()


@router.get("/coordinator/health/ready", responses={503: {"model": Ready}})
async def ready(services: ServicesIn, response: Response) -> Ready:
    """The worker accepts new runs; 503 while it drains, is not registered, or the store is unavailable.

    `/coordinator/health` contains the reasons, for callers with a key.
    """
    if (await services.manager.worker.health()).ready:
        return Ready(status="ready")
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return Ready(status="not ready")
