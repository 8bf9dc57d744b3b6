"""Threads: create, get, change, search, copy, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated
from uuid import uuid4

from fastapi import Header, Query, Request
from starlette.responses import Response

from coordinator.errors import ThreadNotFound
from coordinator.gateway import pages, stopping, thread_creation
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.client_disconnect import while_connected
from coordinator.gateway.extracting import Path, extract, parse_paths
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, USER, LastEventIdIn, ThreadIn, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.thread_streams import ThreadMode, ThreadStream, thread_position_of
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import check_metadata
from coordinator.gateway.wire.documents import PrunedThreads, Thread, ThreadParts, ThreadWithTtl
from coordinator.gateway.wire.json import TolerantJsonResponse
from coordinator.gateway.wire.threads import ThreadCount, ThreadCreate, ThreadPatch, ThreadPrune, ThreadSearch
from stores.catalogue import ThreadQuery
from stores.json_values import Json, JsonObject
from stores.rows import ThreadRow

router = router_of("threads")

STREAMED_THREAD: dict[int | str, JsonObject] = {
    200: {
        "description": "Server-sent events of each run: metadata, the events of the run, error if it fails,"
        " metadata with the status run_done",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/threads", dependencies=USER, response_model=Thread)
async def create_thread(services: ServicesIn, caller: CallerIn, body: ThreadCreate) -> Response:
    """Create a thread. With `supersteps` the thread and its state are created atomically. With `do_nothing`
    an existing thread stays unchanged."""
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    row = await thread_creation.create(services, caller, body)
    return TolerantJsonResponse(documents.thread_document(row))


@router.get(
    "/threads/{thread_id}",
    dependencies=READER,
    response_model=ThreadWithTtl,
    response_model_exclude_unset=True,
)
async def get_thread(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    include: Annotated[
        list[str] | None, Query(max_length=64, description="`ttl`: when the thread will be removed")
    ] = None,
) -> Response:
    row = await existing_row(services, caller, str(thread_id))
    included = ",".join(include or ()).split(",")
    return TolerantJsonResponse(documents.thread_with_ttl(row, include_ttl="ttl" in included))


@router.patch(
    "/threads/{thread_id}",
    dependencies=acting(),
    response_model=Thread,
    responses={204: {"description": "With `return=minimal`"}},
)
async def patch_thread(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: ThreadPatch,
    prefer: Annotated[str | None, Header(description="`return=minimal`: no body")] = None,
) -> Response:
    """Merge metadata by key, and set the time to live."""
    manager, limit = services.manager, services.settings.max_metadata_bytes
    check_metadata(body.metadata, limit)
    if body.metadata:
        row = await existing_row(services, caller, str(thread_id), with_values=False)
        check_metadata({**row.metadata, **body.metadata}, limit)
    row = await manager.threads.update(
        str(thread_id),
        metadata=body.metadata,
        ttl="unchanged" if body.ttl is None else body.ttl.seconds,
        user_id=caller.user_id,
    )
    if prefer is not None and "return=minimal" in prefer.replace(" ", "").lower():
        return Response(status_code=204)
    return TolerantJsonResponse(documents.thread_document(row))


@router.delete("/threads/{thread_id}", dependencies=acting(), status_code=204)
async def delete_thread(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn) -> None:
    """Remove the thread with its state and its runs. Runs in flight are stopped first."""
    await stopping.delete_thread(services.manager, str(thread_id), caller)


@router.post("/threads/prune", dependencies=acting())
async def prune_threads(services: ServicesIn, caller: CallerIn, body: ThreadPrune) -> PrunedThreads:
    """Remove threads, each as `DELETE /threads/{thread_id}` does, or with `keep_latest` their former states;
    then a thread with a run in flight is a conflict. Unknown threads are left out. If a thread cannot be
    pruned, those before it are: repeat the request."""
    manager, pruned = services.manager, 0
    for thread_id in body.thread_ids:
        with suppress(ThreadNotFound):
            if body.strategy == "keep_latest":
                await manager.threads.keep_latest(thread_id, user_id=caller.user_id)
            else:
                await stopping.delete_thread(manager, thread_id, caller)
            pruned += 1
    return PrunedThreads(pruned_count=pruned)


@router.post(
    "/threads/search",
    dependencies=READER,
    response_model=list[ThreadParts],
    response_model_exclude_unset=True,
)
async def search_threads(
    services: ServicesIn, caller: CallerIn, body: ThreadSearch, request: Request
) -> Response:
    """Search the caller's threads. `X-Pagination-Total` is their number, `X-Pagination-Next` the offset of
    the next page if there is one."""
    query, paths = _query(body), parse_paths(body.extract)
    query = replace(query, max_bytes=services.settings.max_page_bytes)
    manager, user_id = services.manager, caller.user_id
    with_values = body.select is None or "values" in body.select or bool(paths)
    searching = manager.threads.search(query, with_values=with_values, user_id=user_id)
    rows = await while_connected(request, searching)
    total = body.offset + len(rows)
    if rows.cut or len(rows) == body.limit or (body.offset and not rows):
        total = await while_connected(request, manager.threads.count(query, user_id=user_id))
    headers = pages.pagination_headers(body.offset, len(rows), total=total)
    return await pages.page_of(rows, lambda row: _parts(row, body.select, paths), headers)


@router.post("/threads/count", dependencies=READER)
async def count_threads(services: ServicesIn, caller: CallerIn, body: ThreadCount, request: Request) -> int:
    counting = services.manager.threads.count(_query(body), user_id=caller.user_id)
    return await while_connected(request, counting)


@router.post("/threads/{thread_id}/copy", dependencies=USER, response_model=Thread)
async def copy_thread(services: ServicesIn, caller: CallerIn, thread_id: ThreadIn) -> Response:
    """Create a thread with the metadata and the state of this one, without its runs."""
    manager, source, target = services.manager, str(thread_id), str(uuid4())
    metadata = (await existing_row(services, caller, source, with_values=False)).metadata
    await manager.threads.copy(source, target, user_id=caller.user_id)
    await manager.threads.update(target, metadata=metadata, user_id=caller.user_id)
    return TolerantJsonResponse(documents.thread_document(await existing_row(services, caller, target)))


@router.get(
    "/threads/{thread_id}/stream", dependencies=READER, response_class=Response, responses=STREAMED_THREAD
)
async def stream_thread(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    stream_mode: Annotated[list[ThreadMode], Query(description="Of each run; repeated")] = ["run_modes"],  # noqa: B006 - FastAPI copies it
    last_event_id: LastEventIdIn = None,
) -> Response:
    """Stream the runs of a thread, one after another, from now on or from after `Last-Event-ID`, until the
    client closes the stream or the thread is deleted."""
    await existing_row(services, caller, str(thread_id), with_values=False)
    position = thread_position_of(last_event_id)
    with services.watchers.reserve(caller.user_id) as slot:
        return ThreadStream(
            services.manager,
            str(thread_id),
            slot,
            user_id=caller.user_id,
            modes=frozenset(stream_mode),
            position=position,
            heartbeat=services.settings.heartbeat,
        )


async def existing_row(
    services: Services, caller: Caller, thread_id: str, *, with_values: bool = True
) -> ThreadRow:
    """Returns the row of a thread. The temporary thread of a stateless run counts as removed when the run has
    ended; it is kept for a few seconds only for clients that lost their connection. Raises ThreadNotFound."""
    row = await services.manager.threads.get(thread_id, with_values=with_values, user_id=caller.user_id)
    if row.temporary and row.status != "busy":
        raise ThreadNotFound(thread_id)
    return row


def _query(body: ThreadCount) -> ThreadQuery:
    if not isinstance(body, ThreadSearch):
        return ThreadQuery(metadata=body.metadata, values=body.values, status=body.status)
    return ThreadQuery(
        ids=None if body.ids is None else tuple(body.ids),
        metadata=body.metadata,
        values=body.values,
        status=body.status,
        sort_by=body.sort_by,
        sort_order=body.sort_order,
        limit=body.limit,
        offset=body.offset,
    )


def _parts(row: ThreadRow, select: Sequence[str] | None, paths: Mapping[str, Path]) -> Json:
    thread = documents.thread_document(row)
    document = documents.parts(thread, select)
    return {**document, "extracted": extract(thread, paths)} if paths else document
