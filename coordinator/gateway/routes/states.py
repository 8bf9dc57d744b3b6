"""The state of a thread, which its assistant provides: current state, history, and updates by clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, cast

from fastapi import HTTPException, Path, Query
from starlette.responses import Response

from coordinator.errors import InvalidArgument
from coordinator.gateway import pages
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, LimitIn, ThreadIn, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.streamed_list import StreamedList
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


@router.post("/threads/{thread_id}/state", dependencies=acting(), response_model_exclude_unset=True)
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
        user=caller.user,
    )
    return documents.state_updated(str(thread_id), updated)


_HISTORY: JsonObject = {"response_model": list[StateParts], "response_model_exclude_unset": True}


@router.get("/threads/{thread_id}/history", dependencies=READER, **_HISTORY)
async def get_latest_history(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    limit: LimitIn = 10,
    before: Annotated[Name | None, Query(description="Id of a checkpoint")] = None,
) -> Response:
    """As POST, for clients without a body."""
    return await get_history(services, caller, thread_id, HistoryBefore(limit=limit, before=before))


@router.post("/threads/{thread_id}/history", dependencies=READER, **_HISTORY)
async def get_history(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: HistoryBefore
) -> Response:
    """Returns the past states of the thread, newest first. `checkpoint` selects a subgraph by its
    namespace. What exceeds `max_page_bytes` is streamed; a response that ends early is not valid JSON."""
    before = body.before.ref if isinstance(body.before, Checkpoint) else ref_of(None, body.before)
    namespace = "" if body.checkpoint is None else body.checkpoint.checkpoint_ns
    if before is not None:
        await _check_before(services, caller, str(thread_id), _within(before, namespace))
    views = services.manager.threads.history(
        str(thread_id),
        limit=body.limit,
        namespace=namespace,
        before=before,
        metadata=body.metadata,
        user_id=caller.user_id,
        user=caller.user,
    )
    states = _documents(str(thread_id), cast("AsyncGenerator[StateView]", views), body.select)
    page, left = pages.Page(services.settings.max_page_bytes), False
    try:
        async for state in states:
            if not await page.add(state):
                with services.watchers.reserve(caller.user_id) as slot:
                    left = True
                    return StreamedList(page, state, states, slot)
    finally:
        if not left:
            await states.aclose()
    return page.response({})


def _within(before: CheckpointRef, namespace: str) -> CheckpointRef:
    """A checkpoint without a namespace is one of the history's."""
    return before if before.checkpoint_ns else replace(before, checkpoint_ns=namespace)


async def _documents(
    thread_id: str, views: AsyncGenerator[StateView], select: Sequence[str] | None
) -> AsyncGenerator[Json]:
    async with aclosing(views):
        async for view in views:
            yield documents.state_parts(documents.state_document(thread_id, view), select)


async def _check_before(services: Services, caller: Caller, thread_id: str, before: CheckpointRef) -> None:
    """Ids are compared by order, so that an unknown one would yield any part of the history. Raises
    InvalidArgument."""
    named = before.checkpoint_id is not None
    threads, user_id = services.manager.threads, caller.user_id
    if not named or await threads.state(thread_id, before, user_id=user_id, user=caller.user) is None:
        raise InvalidArgument("before", "the thread has no such checkpoint")


async def _state(
    services: Services,
    caller: Caller,
    thread_id: str,
    at: CheckpointRef | None,
    subgraphs: bool,
    select: Sequence[str] | None,
) -> Json:
    view = await services.manager.threads.state(
        thread_id, at, subgraphs=subgraphs, user_id=caller.user_id, user=caller.user
    )
    if view is None:
        raise HTTPException(404, "the thread has no such state")
    return documents.state_parts(documents.state_document(thread_id, view), select)
