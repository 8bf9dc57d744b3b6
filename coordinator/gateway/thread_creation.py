"""Threads that clients create, with a first state or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias
from uuid import uuid4

from coordinator.errors import ThreadExists
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import Superstep, ThreadCreate
from coordinator.runs.jobs import through
from coordinator.schemas import StateStep
from stores.rows import ThreadRow
from stores.tasks import begin_soon

IfExists: TypeAlias = Literal["raise", "do_nothing"]


async def create(services: Services, caller: Caller, body: ThreadCreate) -> ThreadRow:
    """The thread that the body describes; with `if_exists: do_nothing` one of the caller's that is there,
    as it is. Never removes a thread that this call has not made. With supersteps it goes on if the client
    disconnects: the thread is complete, or was not made. Raises ThreadExists, InvalidArgument,
    ConflictError."""
    thread_id = body.thread_id or str(uuid4())
    if not body.supersteps:
        return await _row(services, caller, body, thread_id, body.if_exists)
    steps = _steps(body.supersteps)
    return await through(begin_soon(_with_state(services, caller, body, thread_id, steps)))


async def _row(
    services: Services, caller: Caller, body: ThreadCreate, thread_id: str, if_exists: IfExists
) -> ThreadRow:
    return await services.manager.create_thread(
        thread_id,
        metadata=body.metadata,
        if_exists=if_exists,
        ttl=None if body.ttl is None else body.ttl.seconds,
        user_id=caller.user_id,
    )


async def _with_state(
    services: Services, caller: Caller, body: ThreadCreate, thread_id: str, steps: Sequence[StateStep]
) -> ThreadRow:
    manager, user_id = services.manager, caller.user_id
    try:
        row, made = await _row(services, caller, body, thread_id, "raise"), True
    except ThreadExists:
        found = await manager.thread(thread_id, user_id=user_id)
        if body.if_exists == "raise" or found is None:
            raise
        row, made = found, False
    if made or _is_unused(row):
        await manager.initialise_thread(row, steps, made=made, user_id=user_id)
    return await manager.thread(thread_id, user_id=user_id) or row


def _is_unused(row: ThreadRow) -> bool:
    """Nothing has held it yet: the worker of an earlier attempt may have died before the first state."""
    return row.fence == 0 and row.values is None


def _steps(supersteps: Sequence[Superstep]) -> list[StateStep]:
    return [
        StateStep(update.values if update.command is None else update.command.update, update.as_node)
        for step in supersteps
        for update in step.updates
    ]
