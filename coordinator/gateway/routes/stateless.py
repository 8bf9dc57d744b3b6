"""Stateless runs: each gets its own thread, which is removed when the run ends unless the client keeps it.

They are also available under the paths of other runs; here the paths do not contain the thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import Body, Header
from starlette.responses import Response

from coordinator.errors import CoordinatorError, InvalidArgument
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.links import created_headers
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import (
    READER,
    USER,
    CancelOnDisconnectIn,
    IdempotencyKeyIn,
    LastEventIdIn,
    RunIn,
    StreamModesIn,
)
from coordinator.gateway.routes.runs import ENDED, STREAMED
from coordinator.gateway.run_admission import created_document, start_run, validate_run
from coordinator.gateway.run_responses import RunResponses
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import MAX_BATCH
from coordinator.gateway.wire.documents import Run
from coordinator.gateway.wire.json import TolerantJsonResponse
from coordinator.gateway.wire.runs import BatchedRun, RunCreate
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import CancelAction, Cause

router = router_of("stateless runs")


def _path(run: RunRecord) -> str:
    return f"/runs/{run.run_id}"


@router.post("/runs", dependencies=USER, response_model=Run)
async def create_run(
    services: ServicesIn, caller: CallerIn, body: RunCreate, idempotency_key: IdempotencyKeyIn = None
) -> Response:
    """Admit a run and respond at once."""
    spec = await validate_run(services, caller, body, None, idempotency_key=idempotency_key)
    run = await start_run(services, spec, own_thread=True)
    document = await created_document(services, run, caller)
    return TolerantJsonResponse(document, headers=created_headers(_path(run)))


@router.post("/runs/stream", dependencies=USER, response_class=Response, responses=STREAMED)
async def create_and_stream(
    services: ServicesIn, caller: CallerIn, body: RunCreate, idempotency_key: IdempotencyKeyIn = None
) -> Response:
    """Admit a run and stream its events."""
    spec = await validate_run(services, caller, body, None, idempotency_key=idempotency_key)
    with services.watchers.reserve(caller.user_id) as slot:
        run = await start_run(services, spec, own_thread=True)
        return RunResponses(services, caller).stream(run, slot, _path(run))


@router.post("/runs/wait", dependencies=USER, response_class=Response, responses=ENDED)
async def create_and_wait(
    services: ServicesIn, caller: CallerIn, body: RunCreate, idempotency_key: IdempotencyKeyIn = None
) -> Response:
    """Admit a run and respond with its result when it ends."""
    spec = await validate_run(services, caller, body, None, idempotency_key=idempotency_key)
    with services.watchers.reserve(caller.user_id) as slot:
        run = await start_run(services, spec, own_thread=True)
        return RunResponses(services, caller).result(run, slot)


@router.post("/runs/batch", dependencies=USER, response_model=list[Run])
async def create_batch(
    services: ServicesIn,
    caller: CallerIn,
    body: Annotated[list[BatchedRun], Body(min_length=1, max_length=MAX_BATCH, fail_fast=True)],
    idempotency_key: Annotated[str | None, Header(description="Refused: a batch has no key")] = None,
) -> Response:
    """Admit all runs or none: if one is refused, those before it are rolled back."""
    if idempotency_key is not None:
        why = "a batch has none: admit each run with a key of its own (POST /runs)"
        raise InvalidArgument("Idempotency-Key", why)
    specs = [await validate_run(services, caller, each, each.thread_id) for each in body]
    started: list[RunRecord] = []
    try:
        for each, spec in zip(body, specs, strict=True):
            started.append(await start_run(services, spec, own_thread=each.thread_id is None))
    except BaseException:
        await _roll_back(services.manager, started, caller)
        raise
    return TolerantJsonResponse([documents.run_created(run, services.manager.assistants) for run in started])


ROLLBACK_TIMEOUT = 5.0
"""Seconds for each run that has started. The client waits for the refusal meanwhile."""


async def _roll_back(manager: RunManager, started: Sequence[RunRecord], caller: Caller) -> None:
    """Cancels the runs in reverse order, so that none of them leaves the queue. They are removed when this
    returns, except for those that do not stop in `ROLLBACK_TIMEOUT`."""
    for run in reversed(started):
        with suppress(CoordinatorError):  # the response is the refusal, which is the first error
            await manager.cancel(
                run.run_id,
                action=CancelAction.rollback,
                cause=Cause.user,
                reason="another run of its batch was refused",
                actor=caller.actor,
                user_id=caller.user_id,
                wait=ROLLBACK_TIMEOUT,
            )


@router.get("/runs/{run_id}", dependencies=READER, response_model=Run)
async def get_run(services: ServicesIn, caller: CallerIn, run_id: RunIn) -> Response:
    row = await services.manager.runs.get(str(run_id), user_id=caller.user_id)
    position = await services.manager.runs.position(row)
    return TolerantJsonResponse(documents.run_document(row, services.manager.assistants, position=position))


@router.get("/runs/{run_id}/join", dependencies=READER, response_class=Response, responses=ENDED)
async def join_run(
    services: ServicesIn,
    caller: CallerIn,
    run_id: RunIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
) -> Response:
    """Wait for the end of a run and respond with its result."""
    run = await services.manager.runs.get(str(run_id), user_id=caller.user_id)
    with services.watchers.reserve(caller.user_id) as slot:
        return RunResponses(services, caller).join_result(
            run, slot, cancel_on_disconnect=cancel_on_disconnect
        )


@router.get("/runs/{run_id}/stream", dependencies=READER, response_class=Response, responses=STREAMED)
async def join_stream(
    services: ServicesIn,
    caller: CallerIn,
    run_id: RunIn,
    stream_mode: StreamModesIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
    last_event_id: LastEventIdIn = None,
) -> Response:
    """Stream the events of a run from now on or, if it is resumable, after `Last-Event-ID`."""
    run = await services.manager.runs.get(str(run_id), user_id=caller.user_id)
    with services.watchers.reserve(caller.user_id) as slot:
        return RunResponses(services, caller).join_stream(
            run,
            slot,
            last_event_id=last_event_id,
            modes=stream_mode,
            cancel_on_disconnect=cancel_on_disconnect,
        )
