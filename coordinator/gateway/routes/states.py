"""The state of a thread, which its assistant provides: current state, history, and updates by clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, cast

from fastapi import HTTPException, Path, Query
from starlette.responses import Response

from coordinator.errors import InvalidArgument
from coordinator.gateway import pages
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, ThreadIn, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import Checkpoint, Name, ref_of
from coordinator.gateway.wire.documents import StateParts, StateUpdated
from coordinator.gateway.wire.threads import HistoryBefore, StateAt, StateUpdate
from coordinator.schemas import CheckpointRef, StateView
from stores.json_values import Json, JsonObject

router = router_of("states")

SelectIn = Annotated[
    list[str] | None, Query(max_length=64, description="Fields; `values.<key>` selects one of the values")
]
SELECTED: JsonObject = {"response_model": StateParts, "response_model_exclude_unset": True}


@router.get("/threads/{thread_id}/state", dependencies=READER, **SELECTED)
async def get_state(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    subgraphs: Annotated[bool, Query()] = False,
    select: SelectIn = None,
) -> Json:
    return await _state(services, caller, str(thread_id), None, subgraphs, select)


@router.get("/threads/{thread_id}/state/{checkpoint_id}", dependencies=READER, **SELECTED)
async def get_state_at(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    checkpoint_id: Annotated[Name, Path()],
    subgraphs: Annotated[bool, Query()] = False,
    select: SelectIn = None,
) -> Json:
    at = CheckpointRef(checkpoint_id)
    return await _state(services, caller, str(thread_id), at, subgraphs, select)


@router.post("/threads/{thread_id}/state/checkpoint", dependencies=READER, **SELECTED)
async def get_state_at_checkpoint(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: StateAt
) -> Json:
    at = body.checkpoint.ref
    return await _state(services, caller, str(thread_id), at, body.subgraphs, body.select)


@router.post("/threads/{thread_id}/state", dependencies=acting())
async def update_state(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: StateUpdate
) -> StateUpdated:
    """Update the state of the thread. 409 while a run is in flight on it."""
    updated = await services.manager.threads.update_state(
        str(thread_id),
        body.values,
        as_node=body.as_node,
        at=ref_of(body.checkpoint, body.checkpoint_id),
        user_id=caller.user_id,
    )
    return StateUpdated(checkpoint=documents.checkpoint_document(str(thread_id), updated))


@router.post(
    "/threads/{thread_id}/history",
    dependencies=READER,
    response_model=list[StateParts],
    response_model_exclude_unset=True,
)
async def get_history(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: HistoryBefore
) -> Response:
    """Returns the past states of the thread, newest first. If the page ends before `limit`,
    `X-Pagination-Next` is the id of its last checkpoint, which is `before` of the next page."""
    before = body.before.ref if isinstance(body.before, Checkpoint) else ref_of(None, body.before)
    views = services.manager.threads.history(
        str(thread_id),
        limit=body.limit,
        before=before,
        metadata=body.metadata,
        user_id=caller.user_id,
    )
    page, last, headers = pages.Page(services.settings.max_page_bytes), None, dict[str, str]()
    async with aclosing(cast("AsyncGenerator[StateView]", views)):
        async for view in views:
            state = documents.state_document(str(thread_id), view)
            if not await page.add(documents.state_parts(state, body.select)):
                headers = {} if last is None else {pages.NEXT: last}
                break
            last = state.checkpoint.checkpoint_id
    if last is None and before is not None:
        await _check_before(services, caller, str(thread_id), before)
    return page.response(headers)


async def _check_before(services: Services, caller: Caller, thread_id: str, before: CheckpointRef) -> None:
    """Distinguishes the end of the history, which is an empty page, from an unknown checkpoint. Raises
    InvalidArgument."""
    named = before.checkpoint_id is not None
    if not named or await services.manager.threads.state(thread_id, before, user_id=caller.user_id) is None:
        raise InvalidArgument("before", "the thread has no such checkpoint")


async def _state(
    services: Services,
    caller: Caller,
    thread_id: str,
    at: CheckpointRef | None,
    subgraphs: bool,
    select: Sequence[str] | None,
) -> Json:
    view = await services.manager.threads.state(thread_id, at, subgraphs=subgraphs, user_id=caller.user_id)
    if view is None:
        raise HTTPException(404, "the thread has no such state")
    return documents.state_parts(documents.state_document(thread_id, view), select)
