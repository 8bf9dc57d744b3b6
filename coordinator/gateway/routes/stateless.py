"""Runs without a thread of the client's: each gets one of its own, removed afterwards unless it is kept.

The paths of such runs work as those of all others do, here also without naming the thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import Body
from starlette.responses import Response

from coordinator.errors import CoordinatorError
from coordinator.gateway.beginning import begin, checked
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.links import created
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
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.watching import Watching
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import MAX_BATCH, BatchedRun, RunCreate
from coordinator.gateway.wire.documents import Run
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import CancelAction, Cause

router = router_of("stateless runs")


def _path(run: RunRecord) -> str:
    return f"/runs/{run.run_id}"


@router.post("/runs", dependencies=USER)
async def create_run(
    services: ServicesIn,
    caller: CallerIn,
    body: RunCreate,
    response: Response,
    idempotency_key: IdempotencyKeyIn = None,
) -> Run:
    """Admit a run and answer at once."""
    run = await begin(services, caller, checked(services, body, None), idempotency_key=idempotency_key)
    response.headers.update(created(_path(run)))
    return documents.run_created(run, services.manager.assistants)


@router.post("/runs/stream", dependencies=USER, response_class=Response, responses=STREAMED)
async def create_and_stream(
    services: ServicesIn, caller: CallerIn, body: RunCreate, idempotency_key: IdempotencyKeyIn = None
) -> Response:
    """Admit a run and stream what it does."""
    wanted = checked(services, body, None)
    with services.watchers.place(caller.user_id) as place:
        run = await begin(services, caller, wanted, idempotency_key=idempotency_key)
        return Watching(services, caller).stream_of(run, place, _path(run))


@router.post("/runs/wait", dependencies=USER, response_class=Response, responses=ENDED)
async def create_and_wait(
    services: ServicesIn, caller: CallerIn, body: RunCreate, idempotency_key: IdempotencyKeyIn = None
) -> Response:
    """Admit a run and answer with what it comes to."""
    wanted = checked(services, body, None)
    with services.watchers.place(caller.user_id) as place:
        run = await begin(services, caller, wanted, idempotency_key=idempotency_key)
        return Watching(services, caller).end_of(run, place)


@router.post("/runs/batch", dependencies=USER)
async def create_batch(
    services: ServicesIn,
    caller: CallerIn,
    body: Annotated[list[BatchedRun], Body(min_length=1, max_length=MAX_BATCH, fail_fast=True)],
) -> list[Run]:
    """Admit all of them or none: where one is refused, those before it are taken back."""
    wanted = [checked(services, one, one.thread_id) for one in body]
    begun: list[RunRecord] = []
    try:
        for one in wanted:
            begun.append(await begin(services, caller, one))  # noqa: PERF401 - those before a refusal count
    except BaseException:
        await _take_back(services.manager, begun, caller)
        raise
    return [documents.run_created(run, services.manager.assistants) for run in begun]


TAKEN_BACK_WITHIN = 5.0
"""Seconds, for each run that has begun. The client waits for the refusal meanwhile."""


async def _take_back(manager: RunManager, begun: Sequence[RunRecord], caller: Caller) -> None:
    """The last first: none of them gets its turn by that. When this returns they are gone, unless one of
    them does not stop in time."""
    for run in reversed(begun):
        with suppress(CoordinatorError):  # the caller is told of the refusal, which came first
            await manager.cancel(
                run.run_id,
                action=CancelAction.rollback,
                cause=Cause.user,
                reason="another run of its batch was refused",
                actor=caller.actor,
                user_id=caller.user_id,
                wait=TAKEN_BACK_WITHIN,
            )


@router.get("/runs/{run_id}", dependencies=READER)
async def get_run(services: ServicesIn, caller: CallerIn, run_id: RunIn) -> Run:
    row = await services.manager.run(str(run_id), user_id=caller.user_id)
    return documents.run_document(row, services.manager.assistants)


@router.get("/runs/{run_id}/join", dependencies=READER, response_class=Response, responses=ENDED)
async def join_run(
    services: ServicesIn,
    caller: CallerIn,
    run_id: RunIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
) -> Response:
    """Wait for the end of a run, and answer with what it came to."""
    run = await services.manager.run(str(run_id), user_id=caller.user_id)
    with services.watchers.place(caller.user_id) as place:
        return Watching(services, caller).joined_end(run, place, cancel_on_disconnect=cancel_on_disconnect)


@router.get("/runs/{run_id}/stream", dependencies=READER, response_class=Response, responses=STREAMED)
async def join_stream(
    services: ServicesIn,
    caller: CallerIn,
    run_id: RunIn,
    stream_mode: StreamModesIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
    last_event_id: LastEventIdIn = None,
) -> Response:
    """Stream what a run does from now on, or, of a resumable one, from after `Last-Event-ID`."""
    run = await services.manager.run(str(run_id), user_id=caller.user_id)
    with services.watchers.place(caller.user_id) as place:
        return Watching(services, caller).joined_stream(
            run,
            place,
            last_event_id=last_event_id,
            modes=stream_mode,
            cancel_on_disconnect=cancel_on_disconnect,
        )
