"""`/coordinator/…` and `/metrics`: what this project adds to the Runs API, for those who operate it."""

from __future__ import annotations

from fastapi import Depends, HTTPException, Response
from pydantic import Field

from coordinator.gateway.caller import CallerIn, Role, check_sees_everybody
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.metrics import CONTENT_TYPE
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.operation_models import (
    Explained,
    HealthDetails,
    HealthSummary,
    ReceiptOut,
    WorkerOut,
)
from coordinator.gateway.routes.parameters import READER, RunIn, acting
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.wire.bodies import ActingBody

router = router_of("operations")

EVERYBODY = [*READER, Depends(check_sees_everybody)]


class DrainBody(ActingBody):
    epoch: int | None = Field(
        default=None, ge=0, le=2**63 - 1, description="The worker; none: that which answers"
    )
    all: bool = Field(default=False, description="Every worker, and no `epoch`")
    grace: float | None = Field(
        default=None, ge=0, le=86_400, allow_inf_nan=False, description="Seconds that runs get to finish"
    )


class Drained(LazyModel):
    epoch: int
    grace: float | None
    """None: as the worker's own setting says."""
    already: bool
    """It was draining before."""


@router.get("/coordinator/workers", dependencies=EVERYBODY)
async def workers(services: ServicesIn, all: bool = False) -> list[WorkerOut]:  # noqa: A002 - its name in the query
    """The workers of the deployment, as the store knows them; with `all` those that are dead too."""
    return [WorkerOut.of(worker) for worker in await services.manager.workers(alive_only=not all)]


@router.get("/coordinator/runs/{run_id}/explain", dependencies=READER)
async def explain(run_id: RunIn, services: ServicesIn, caller: CallerIn) -> Explained:
    """A run's history: who decided what, when and why; and where it stands now."""
    return Explained.of(await services.manager.explain(str(run_id), user_id=caller.user_id))


@router.get("/coordinator/runs/{run_id}/receipt", dependencies=READER)
async def receipt(run_id: RunIn, services: ServicesIn, caller: CallerIn) -> ReceiptOut:
    """The four times of a run's cancel: requested, delivered, stopped, settled. None = not yet."""
    return ReceiptOut.of(await services.manager.receipt(str(run_id), user_id=caller.user_id))


@router.get("/coordinator/health", dependencies=READER)
async def health(services: ServicesIn, caller: CallerIn) -> HealthDetails | HealthSummary:
    """How the worker is that answers; why it is not ready is for admins, whom errors may tell of hosts."""
    seen = await services.manager.health()
    return HealthDetails.of(seen) if caller.role >= Role.admin else HealthSummary.of(seen)


@router.post("/coordinator/drain", status_code=202, dependencies=acting(role=Role.admin))
async def drain(services: ServicesIn, body: DrainBody | None = None) -> Drained | list[Drained]:
    """Let a worker leave in good order: it admits nothing any more, its waiting runs are handed over, the
    others get `grace` s. Answers at once. `epoch` may be any worker's, whichever answers: the store tells
    it within a second or so. With `all`, a list of all that were asked. To end a process, signal it.
    """
    asked = body or DrainBody()
    manager = services.manager
    if asked.all and asked.epoch is not None:
        raise HTTPException(422, "either `epoch` or `all`")
    if asked.all or asked.epoch not in (None, manager.epoch):
        workers = await manager.ask_to_drain(asked.epoch, grace=asked.grace)
        told = [Drained(epoch=epoch, grace=asked.grace, already=already) for epoch, already in workers]
        if not told and not asked.all:
            raise HTTPException(404, f"no live worker has epoch {asked.epoch}")
        return told if asked.all else told[0]
    already, grace = manager.draining, manager.grace if asked.grace is None else asked.grace
    if not already:
        services.jobs.spawn(manager.drain(grace), "The drain that was asked for")
    return Drained(epoch=manager.epoch, grace=grace, already=already)


@router.get("/metrics", dependencies=EVERYBODY, response_class=Response)
async def metrics(services: ServicesIn) -> Response:
    """For Prometheus. Of all workers of this server, and of the deployment as the store knows it."""
    return Response(await services.metrics.exposition(), media_type=CONTENT_TYPE)
