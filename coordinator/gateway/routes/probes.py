"""What load balancers and clients ask without a key. All routes of this router are public, and no others:
`create_gateway` includes it before any other and without a prefix."""

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


class Info(LazyModel):
    version: str
    flags: dict[str, bool]


class Live(LazyModel):
    status: Literal["live"] = "live"


class Ready(LazyModel):
    status: Literal["ready", "not ready"]


@router.get("/ok")
async def ok() -> Ok:
    """This process answers. Whether it should get requests is `/coordinator/health/ready`."""
    return Ok()


@router.get("/info")
async def info() -> Info:
    """What runs here; the flags are those that clients of the API know."""
    return Info(
        version=version("run-coordinator"), flags={"assistants": True, "crons": True, "langsmith": False}
    )


@router.get("/coordinator/health/live")
async def live() -> Live:
    """The event loop turns. A supervisor that gets no answer restarts the process."""
    return Live()


@router.get("/coordinator/health/ready", responses={503: {"model": Ready}})
async def ready(services: ServicesIn, response: Response) -> Ready:
    """May be sent new runs; 503 while it drains, is not registered, or the store is away.

    Why not is told by `/coordinator/health`, to those with a key.
    """
    if (await services.manager.health()).ready:
        return Ready(status="ready")
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return Ready(status="not ready")
