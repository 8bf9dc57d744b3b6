"""Runs on a thread: create, stream, wait; list, get, join; cancel, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import HTTPException, Query
from starlette.responses import Response

from coordinator.gateway import bulk, pages, stopping
from coordinator.gateway.caller import CallerIn
from coordinator.gateway.links import created_headers, run_path
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import (
    READER,
    USER,
    ActionIn,
    CancelOnDisconnectIn,
    IdempotencyKeyIn,
    LastEventIdIn,
    LimitIn,
    OffsetIn,
    RunIn,
    StreamModesIn,
    ThreadIn,
    WaitIn,
    acting,
)
from coordinator.gateway.run_admission import created_document, start_run, validate_run
from coordinator.gateway.run_responses import RunResponses
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import RunStatus
from coordinator.gateway.wire.documents import Run, RunField, RunParts
from coordinator.gateway.wire.json import TolerantJsonResponse
from coordinator.gateway.wire.runs import RunCreate, RunsCancel
from stores.json_values import JsonObject

router = router_of("runs")

LOCATED: JsonObject = {
    "Location": {"schema": {"type": "string"}, "description": "Where to resume if this response is aborted"},
    "Content-Location": {"schema": {"type": "string"}, "description": "The run"},
}
STREAMED: dict[int | str, JsonObject] = {
    200: {
        "description": "Server-sent events: metadata, the events of the run, error if it fails",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": LOCATED,
    }
}
ENDED: dict[int | str, JsonObject] = {
    200: {
        "description": "The result of the run, after white space; `__error__` if it failed",
        "content": {"application/json": {"schema": {}}},
        "headers": LOCATED,
    }
}
SELECTED: JsonObject = {"response_model_exclude_unset": True}


@router.post("/threads/{thread_id}/runs", dependencies=USER, response_model=Run)
async def create_run(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: RunCreate,
    idempotency_key: IdempotencyKeyIn = None,
) -> Response:
    """Admit a run and respond at once. `Content-Location` is its path."""
    spec = await validate_run(services, caller, body, str(thread_id), idempotency_key=idempotency_key)
    run = await start_run(services, spec)
    document = await created_document(services, run, caller)
    return TolerantJsonResponse(document, headers=created_headers(run_path(run.thread_id, run.run_id)))


@router.post(
    "/threads/{thread_id}/runs/stream", dependencies=USER, response_class=Response, responses=STREAMED
)
async def create_and_stream(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: RunCreate,
    idempotency_key: IdempotencyKeyIn = None,
) -> Response:
    """Admit a run and stream its events."""
    spec = await validate_run(services, caller, body, str(thread_id), idempotency_key=idempotency_key)
    with services.watchers.reserve(caller.user_id) as slot:
        run = await start_run(services, spec)
        return RunResponses(services, caller).stream(run, slot)


@router.post("/threads/{thread_id}/runs/wait", dependencies=USER, response_class=Response, responses=ENDED)
async def create_and_wait(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: RunCreate,
    idempotency_key: IdempotencyKeyIn = None,
) -> Response:
    """Admit a run and respond with its result when it ends. The headers are sent at once."""
    spec = await validate_run(services, caller, body, str(thread_id), idempotency_key=idempotency_key)
    with services.watchers.reserve(caller.user_id) as slot:
        run = await start_run(services, spec)
        return RunResponses(services, caller).result(run, slot)


@router.get("/threads/{thread_id}/runs", dependencies=READER, response_model=list[RunParts], **SELECTED)
async def list_runs(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    limit: LimitIn = 10,
    offset: OffsetIn = 0,
    status: Annotated[RunStatus | None, Query()] = None,
    select: Annotated[list[RunField] | None, Query(max_length=64)] = None,
) -> Response:
    """List the runs of a thread, newest first. If the page ends before `limit`, `X-Pagination-Next` is the
    offset of the next one."""
    kwargs = "kwargs" in (select or ())
    rows = await services.manager.runs.of_thread(
        str(thread_id),
        statuses=() if status is None else (status,),
        limit=limit,
        offset=offset,
        user_id=caller.user_id,
        without=("result", "rollback_ref", "extra")
        if kwargs
        else ("kwargs", "result", "rollback_ref", "extra"),
        max_bytes=services.settings.max_page_bytes,
    )
    assistants = services.manager.assistants
    return await pages.page_of(
        rows,
        lambda row: documents.parts(documents.run_document(row, assistants, kwargs=kwargs), select),
        {pages.NEXT: str(offset + len(rows))} if rows.cut else {},
    )


@router.get("/threads/{thread_id}/runs/{run_id}", dependencies=READER, response_model=Run)
async def get_run(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, run_id: RunIn) -> Response:
    row = await services.manager.runs.get(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    position = await services.manager.runs.position(row)
    return TolerantJsonResponse(documents.run_document(row, services.manager.assistants, position=position))


@router.get(
    "/threads/{thread_id}/runs/{run_id}/join",
    dependencies=READER,
    response_class=Response,
    responses=ENDED,
)
async def join_run(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    run_id: RunIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
) -> Response:
    """Wait for the end of a run and respond with its result."""
    run = await services.manager.runs.get(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    with services.watchers.reserve(caller.user_id) as slot:
        return RunResponses(services, caller).join_result(
            run, slot, cancel_on_disconnect=cancel_on_disconnect
        )


@router.get(
    "/threads/{thread_id}/runs/{run_id}/stream",
    dependencies=READER,
    response_class=Response,
    responses=STREAMED,
)
async def join_stream(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    run_id: RunIn,
    stream_mode: StreamModesIn,
    cancel_on_disconnect: CancelOnDisconnectIn,
    last_event_id: LastEventIdIn = None,
) -> Response:
    """Stream the events of a run from now on or, if it is resumable, after `Last-Event-ID`."""
    run = await services.manager.runs.get(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    with services.watchers.reserve(caller.user_id) as slot:
        return RunResponses(services, caller).join_stream(
            run,
            slot,
            last_event_id=last_event_id,
            modes=stream_mode,
            cancel_on_disconnect=cancel_on_disconnect,
        )


@router.post(
    "/threads/{thread_id}/runs/{run_id}/cancel",
    dependencies=acting("wait", "action"),
    response_class=Response,
    status_code=202,
    responses={202: {"description": "The cancel is committed; the run stops as soon as it can"}} | ENDED,
)
async def cancel_run(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    run_id: RunIn,
    wait: WaitIn = False,
    action: ActionIn = "interrupt",
) -> Response:
    """Cancel a run at any worker. Idempotent. 404 if the run does not exist or has ended otherwise. With
    `wait` the response is sent when the run has stopped and its thread is free."""
    manager, user_id = services.manager, caller.user_id
    run = await manager.runs.get(str(run_id), thread_id=str(thread_id), user_id=user_id)
    # Without `user_id`: the row was read for this user, and is not read again.
    if not await manager.cancel(run.run_id, action=action, actor=caller.actor):
        raise HTTPException(404, f"run {run.run_id} has ended: there is nothing to cancel")
    if not wait:
        return Response(status_code=202)
    with services.watchers.reserve(user_id, always=True) as slot:
        return RunResponses(services, caller).join_result(run, slot)


@router.delete("/threads/{thread_id}/runs/{run_id}", dependencies=acting(), status_code=204)
async def delete_run(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, run_id: RunIn) -> None:
    """Remove a run. A run in flight is stopped first. Its changes to the thread stay."""
    run = await services.manager.runs.get(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    await stopping.delete_run(services.manager, run, caller)


@router.post(
    "/runs/cancel",
    dependencies=acting("action"),
    status_code=204,
    response_class=Response,
    responses={200: {"model": bulk.CancelledRuns, "description": "Counts, if the body has a filter"}},
)
async def cancel_runs(
    services: ServicesIn, caller: CallerIn, body: RunsCancel, action: ActionIn = "interrupt"
) -> Response:
    """Cancel runs of a thread by their ids, or all of the caller's runs with the status: 404 if none is in
    flight. With any other filter, or with `dry_run`, the response contains counts."""
    if not body.without_counts:
        counts = await bulk.cancel(services, caller, body, action)
        return TolerantJsonResponse(counts.model_dump())
    count = await stopping.cancel_in_flight(
        services.manager,
        body.status or "all",
        action=action,
        caller=caller,
        thread_id=body.thread_id,
        run_ids=None if body.run_ids is None else frozenset(body.run_ids),
    )
    if not count:
        raise HTTPException(404, "no such run is in flight")
    return Response(status_code=204)
