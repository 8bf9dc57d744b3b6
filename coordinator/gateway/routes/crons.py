"""Crons: runs on a schedule."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import Path, Request
from starlette.responses import Response

from coordinator.gateway import crons, pages
from coordinator.gateway.caller import CallerIn
from coordinator.gateway.client_disconnect import while_connected
from coordinator.gateway.created_assistants import as_uuid
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, USER, ThreadIn, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.crons import (
    Cron,
    CronCount,
    CronCreate,
    CronParts,
    CronPatch,
    CronSearch,
    cron_document,
)
from stores.crons import CronQuery

router = router_of("crons")

CronIn = Annotated[UUID, Path(alias="cron_id")]


@router.post("/runs/crons", dependencies=USER)
async def create_cron(services: ServicesIn, caller: CallerIn, body: CronCreate) -> Cron:
    """Start a run at every moment of the schedule, each on its own thread."""
    row = await crons.create(services, caller, body, None)
    return cron_document(row, services.manager.assistants)


@router.post("/threads/{thread_id}/runs/crons", dependencies=USER)
async def create_thread_cron(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: CronCreate
) -> Cron:
    """Start a run on this thread at every moment of the schedule. The cron is removed with the thread."""
    row = await crons.create(services, caller, body, str(thread_id))
    return cron_document(row, services.manager.assistants)


@router.post(
    "/runs/crons/search",
    dependencies=READER,
    response_model=list[CronParts],
    response_model_exclude_unset=True,
)
async def search_crons(
    services: ServicesIn, caller: CallerIn, body: CronSearch, request: Request
) -> Response:
    """Search the caller's crons. `X-Pagination-Total` is their number, `X-Pagination-Next` the offset of the
    next page if there is one."""
    query, assistants = _query(services, body), services.manager.assistants
    query = replace(query, max_bytes=services.settings.max_page_bytes)
    manager, user_id = services.manager, caller.user_id
    rows = await while_connected(request, manager.crons.search(query, user_id=user_id))
    total = body.offset + len(rows)
    if rows.cut or len(rows) == body.limit or (body.offset and not rows):
        total = await while_connected(request, manager.crons.count(query, user_id=user_id))
    return await pages.page_of(
        rows,
        lambda row: documents.parts(cron_document(row, assistants).model_dump(), body.select),
        pages.pagination_headers(body.offset, len(rows), total=total),
    )


@router.post("/runs/crons/count", dependencies=READER)
async def count_crons(services: ServicesIn, caller: CallerIn, body: CronCount, request: Request) -> int:
    counting = services.manager.crons.count(_query(services, body), user_id=caller.user_id)
    return await while_connected(request, counting)


@router.get("/runs/crons/{cron_id}", dependencies=READER)
async def get_cron(services: ServicesIn, caller: CallerIn, cron_id: CronIn) -> Cron:
    row = await services.manager.crons.get(str(cron_id), user_id=caller.user_id)
    return cron_document(row, services.manager.assistants)


@router.patch("/runs/crons/{cron_id}", dependencies=acting())
async def patch_cron(services: ServicesIn, caller: CallerIn, cron_id: CronIn, body: CronPatch) -> Cron:
    """Change the given fields. Runs that have been started are not affected."""
    row = await crons.change(services, caller, str(cron_id), body)
    return cron_document(row, services.manager.assistants)


@router.delete("/runs/crons/{cron_id}", dependencies=acting(), status_code=204)
async def delete_cron(services: ServicesIn, caller: CallerIn, cron_id: CronIn) -> None:
    """Remove a cron. Its runs stay, including those in flight."""
    await services.manager.crons.delete(str(cron_id), user_id=caller.user_id)


def _query(services: Services, body: CronCount) -> CronQuery:
    assistants = services.manager.assistants
    assistant, metadata = assistants.name_of(body.assistant_id), body.metadata
    if assistant is not None and assistant not in assistants and (created := as_uuid(assistant)) is not None:
        assistant, metadata = None, {**metadata, "assistant_id": created}
    query = CronQuery(
        assistant_ids=None if assistant is None else (assistant,),
        thread_id=body.thread_id,
        metadata=metadata,
    )
    if not isinstance(body, CronSearch):
        return query
    return CronQuery(
        assistant_ids=query.assistant_ids,
        thread_id=query.thread_id,
        enabled=body.enabled,
        metadata=query.metadata,
        sort_by=body.sort_by,
        sort_order=body.sort_order,
        limit=body.limit,
        offset=body.offset,
    )
