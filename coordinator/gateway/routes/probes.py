"""/ok and /info: for load balancers and clients, without a key."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel

router = APIRouter(tags=["probes"])


class Ok(BaseModel):
    ok: bool = True


class Info(BaseModel):
    version: str
    flags: dict[str, bool]


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
