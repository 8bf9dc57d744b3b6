"""`/coordinator/…` and `/metrics`: routes for operators, in addition to the Runs API."""

from __future__ import annotations

from fastapi import Depends, HTTPException, Response
from pydantic import Field

from coordinator.gateway.caller import CallerIn, Role, check_sees_all_users
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

SYSTEM_READER = [*READER, Depends(check_sees_all_users)]


class DrainBody(ActingBody):
    epoch: int | None = Field(
        default=None, ge=0, le=2**63 - 1, description="The worker to drain; none: the one that responds"
    )
    all: bool = Field(default=False, description="Drain every worker; excludes `epoch`")
    grace: float | None = Field(
        default=None, ge=0, le=86_400, allow_inf_nan=False, description="Seconds that runs get to finish"
    )


class Drained(LazyModel):
    epoch: int
    grace: float | None
    """Seconds. None: the worker's own setting applies."""
    already: bool
    """The worker was draining before this request."""


@router.get("/coordinator/workers", dependencies=SYSTEM_READER)
async def workers(services: ServicesIn, all: bool = False) -> list[WorkerOut]:  # noqa: A002 - its name in the query
    """List the workers of the deployment from the store; with `all`, dead ones as well."""
    return [WorkerOut.of(worker) for worker in await services.manager.worker.fleet(alive_only=not all)]


@router.get("/coordinator/runs/{run_id}/explain", dependencies=READER)
async def explain(run_id: RunIn, services: ServicesIn, caller: CallerIn) -> Explained:
    """Return a run's history (each transition with its time, cause and actor) and its current state."""
    return Explained.of(await services.manager.runs.explain(str(run_id), user_id=caller.user_id))


@router.get("/coordinator/runs/{run_id}/receipt", dependencies=READER)
async def receipt(run_id: RunIn, services: ServicesIn, caller: CallerIn) -> ReceiptOut:
    """Return the four times of a run's cancel: requested, delivered, stopped, settled. None = not yet."""
    return ReceiptOut.of(await services.manager.runs.receipt(str(run_id), user_id=caller.user_id))


@router.get("/coordinator/health", dependencies=READER)
async def health(services: ServicesIn, caller: CallerIn) -> HealthDetails | HealthSummary:
    """Return the health of the worker that responds. Reasons are only for admins, because errors may contain
    names of hosts."""
    seen = await services.manager.worker.health()
    return HealthDetails.of(seen) if caller.role >= Role.admin else HealthSummary.of(seen)


@router.post("/coordinator/drain", status_code=202, dependencies=acting(role=Role.admin))
async def drain(services: ServicesIn, body: DrainBody | None = None) -> Drained | list[Drained]:
    """Drain a worker: it admits no more runs, hands its queued runs over, and gives the others `grace`
    seconds. Responds at once. `epoch` may be that of any worker: it reads the request from the store, within
    about a second. With `all`, returns a list of the drained workers. The process does not end; to end it,
    send it a signal."""
    options, worker = body or DrainBody(), services.manager.worker
    if options.all and options.epoch is not None:
        raise HTTPException(422, "either `epoch` or `all`")
    epoch = worker.epoch if options.epoch is None and not options.all else options.epoch
    workers = await worker.request_drain(epoch, grace=options.grace)
    drained = [Drained(epoch=each, grace=options.grace, already=already) for each, already in workers]
    if not drained and not options.all:
        raise HTTPException(404, f"no live worker has epoch {epoch}")
    return drained if options.all else drained[0]


@router.get("/metrics", dependencies=SYSTEM_READER, response_class=Response)
async def metrics(services: ServicesIn) -> Response:
    """Metrics for Prometheus: of all workers of this server, and of the deployment from the store."""
    return Response(await services.metrics.exposition(), media_type=CONTENT_TYPE)
