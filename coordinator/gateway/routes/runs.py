"""Runs on a thread: create, stream, wait; list, get, join; cancel, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import HTTPException, Query
from starlette.responses import Response

from coordinator.gateway import bulk, pages, stopping
from coordinator.gateway.beginning import begin, checked
from coordinator.gateway.caller import CallerIn
from coordinator.gateway.links import created, run_path
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
from coordinator.gateway.services import ServicesIn
from coordinator.gateway.watching import Watching
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import RunCreate, RunField, RunsCancel, RunStatus
from coordinator.gateway.wire.documents import Run, RunParts
from coordinator.gateway.wire.json import JsonAnswer

router = router_of("runs")

LOCATED: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where to go on if this answer breaks off"},
    "Content-Location": {"schema": {"type": "string"}, "description": "The run"},
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: metadata, what the run emits, error where it fails",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": LOCATED,
    }
}
ENDED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the run came to, after white space; `__error__` where it failed",
        "content": {"application/json": {"schema": {}}},
        "headers": LOCATED,
    }
}
SELECTED: dict[str, Any] = {"response_model_exclude_unset": True}


@router.post("/threads/{thread_id}/runs", dependencies=USER)
async def create_run(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: RunCreate,
    response: Response,
    idempotency_key: IdempotencyKeyIn = None,
) -> Run:
    """Admit a run and answer at once. `Content-Location` is its path."""
    wanted = checked(services, body, str(thread_id))
    run = await begin(services, caller, wanted, idempotency_key=idempotency_key)
    response.headers.update(created(run_path(run.thread_id, run.run_id)))
    return documents.run_created(run, services.manager.assistants)


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
    """Admit a run and stream what it does."""
    wanted = checked(services, body, str(thread_id))
    with services.watchers.place(caller.user_id) as place:
        run = await begin(services, caller, wanted, idempotency_key=idempotency_key)
        return Watching(services, caller).stream_of(run, place)


@router.post("/threads/{thread_id}/runs/wait", dependencies=USER, response_class=Response, responses=ENDED)
async def create_and_wait(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: RunCreate,
    idempotency_key: IdempotencyKeyIn = None,
) -> Response:
    """Admit a run and answer with what it comes to. The headers are sent at once."""
    wanted = checked(services, body, str(thread_id))
    with services.watchers.place(caller.user_id) as place:
        run = await begin(services, caller, wanted, idempotency_key=idempotency_key)
        return Watching(services, caller).end_of(run, place)


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
    """The runs of a thread, newest first. Where the page ends before `limit`, `X-Pagination-Next` tells the
    offset of the next one."""
    kwargs = "kwargs" in (select or ())
    rows = await services.manager.thread_runs(
        str(thread_id),
        statuses=() if status is None else (status,),
        limit=limit,
        offset=offset,
        user_id=caller.user_id,
        without=("result", "rollback_ref") if kwargs else ("kwargs", "result", "rollback_ref"),
        max_bytes=services.settings.max_page_bytes,
    )
    assistants = services.manager.assistants
    return await pages.answer_of(
        rows,
        lambda row: documents.parts(documents.run_document(row, assistants, kwargs=kwargs), select),
        {pages.NEXT: str(offset + len(rows))} if rows.cut else {},
    )


@router.get("/threads/{thread_id}/runs/{run_id}", dependencies=READER)
async def get_run(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, run_id: RunIn) -> Run:
    row = await services.manager.run(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    return documents.run_document(row, services.manager.assistants)


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
    """Wait for the end of a run, and answer with what it came to."""
    run = await services.manager.run(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    with services.watchers.place(caller.user_id) as place:
        return Watching(services, caller).joined_end(run, place, cancel_on_disconnect=cancel_on_disconnect)


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
    """Stream what a run does from now on, or, of a resumable one, from after `Last-Event-ID`."""
    run = await services.manager.run(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    with services.watchers.place(caller.user_id) as place:
        return Watching(services, caller).joined_stream(
            run,
            place,
            last_event_id=last_event_id,
            modes=stream_mode,
            cancel_on_disconnect=cancel_on_disconnect,
        )


@router.post(
    "/threads/{thread_id}/runs/{run_id}/cancel",
    dependencies=acting("wait", "action"),
    response_class=Response,
    status_code=202,
    responses={202: {"description": "Written down; the run stops as soon as it can"}} | ENDED,
)
async def cancel_run(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    run_id: RunIn,
    wait: WaitIn = False,
    action: ActionIn = "interrupt",
) -> Response:
    """Cancel a run, wherever it is. Again is no mistake; 404 where there is no such run, or it has ended
    otherwise. With `wait` the answer comes when the run has stopped and its thread is free."""
    manager, user_id = services.manager, caller.user_id
    run = await manager.run(str(run_id), thread_id=str(thread_id), user_id=user_id)
    if not await manager.cancel(run.run_id, action=action, actor=caller.actor, user_id=user_id):
        raise HTTPException(404, f"run {run.run_id} has ended: there is nothing to cancel")
    if not wait:
        return Response(status_code=202)
    with services.watchers.place(user_id, always=True) as place:
        return Watching(services, caller).joined_end(run, place)


@router.delete("/threads/{thread_id}/runs/{run_id}", dependencies=acting(), status_code=204)
async def delete_run(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, run_id: RunIn) -> None:
    """Remove a run; one that is in flight is stopped first. What it has done to its thread stays."""
    run = await services.manager.run(str(run_id), thread_id=str(thread_id), user_id=caller.user_id)
    await stopping.delete_run(services.manager, run, caller)


@router.post(
    "/runs/cancel",
    dependencies=acting("action"),
    status_code=204,
    response_class=Response,
    responses={200: {"model": bulk.CancelledRuns, "description": "Counts, where the body has a filter"}},
)
async def cancel_runs(
    services: ServicesIn, caller: CallerIn, body: RunsCancel, action: ActionIn = "interrupt"
) -> Response:
    """Cancel runs of a thread by their ids, or all of the caller's that have the status: 404 where none is
    in flight. With any other filter, or with `dry_run`, the answer counts them."""
    if not body.only_succeeds:
        counts = await bulk.cancel(services, caller, body, action)
        return JsonAnswer(counts.model_dump())
    found = await stopping.cancel_in_flight(
        services.manager,
        body.status or "all",
        action=action,
        caller=caller,
        thread_id=body.thread_id,
        only=None if body.run_ids is None else frozenset(body.run_ids),
    )
    if not found:
        raise HTTPException(404, "no such run is in flight")
    return Response(status_code=204)
