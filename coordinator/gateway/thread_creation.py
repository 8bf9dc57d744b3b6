"""Creates threads for clients, with or without an initial state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias
from uuid import uuid4

from coordinator.errors import ThreadExists, ThreadNotFound
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.threads import Superstep, SuperstepUpdate, ThreadCreate
from coordinator.manager import RunManager
from coordinator.runs.jobs import through
from coordinator.schemas import Command, StateStep
from stores.rows import ThreadRow
from stores.tasks import begin_soon

IfExists: TypeAlias = Literal["raise", "do_nothing"]


async def create(services: Services, caller: Caller, body: ThreadCreate) -> ThreadRow:
    """Creates the thread that the body describes. With `if_exists: do_nothing` an existing thread of the
    caller is returned unchanged. Never removes a thread that this call has not created. With supersteps the
    work continues if the client disconnects, so that the thread either has its state or does not exist.
    Raises ThreadExists, InvalidArgument, ConflictError."""
    thread_id = body.thread_id or str(uuid4())
    if not body.supersteps:
        return await _create_row(services, caller, body, thread_id, body.if_exists)
    steps = _steps(body.supersteps)
    return await through(begin_soon(_create_with_state(services, caller, body, thread_id, steps)))


async def _create_row(
    services: Services, caller: Caller, body: ThreadCreate, thread_id: str, if_exists: IfExists
) -> ThreadRow:
    return await services.manager.threads.create(
        thread_id,
        metadata=body.metadata,
        if_exists=if_exists,
        ttl=None if body.ttl is None else body.ttl.seconds,
        user_id=caller.user_id,
    )


async def _create_with_state(
    services: Services,
    caller: Caller,
    body: ThreadCreate,
    thread_id: str,
    steps: Sequence[Sequence[StateStep]],
) -> ThreadRow:
    manager, user_id = services.manager, caller.user_id
    try:
        row, made = await _create_row(services, caller, body, thread_id, "raise"), True
    except ThreadExists:
        existing = await _existing(manager, thread_id, user_id)
        if body.if_exists == "raise" or existing is None:
            raise
        row, made = existing, False
    if made or _is_unused(row):
        await manager.threads.initialise(row, steps, made=made, user_id=user_id, user=caller.user)
    return await _existing(manager, thread_id, user_id) or row


async def _existing(manager: RunManager, thread_id: str, user_id: str | None) -> ThreadRow | None:
    try:
        return await manager.threads.get(thread_id, user_id=user_id)
    except ThreadNotFound:  # of another user, or removed meanwhile
        return None


def _is_unused(row: ThreadRow) -> bool:
    """Returns whether no run or update has ever held the thread: the worker of an earlier attempt may have
    died before it wrote the initial state."""
    return row.fence == 0 and row.values is None


def _steps(supersteps: Sequence[Superstep]) -> list[list[StateStep]]:
    return [[_step(update) for update in superstep.updates] for superstep in supersteps]


def _step(update: SuperstepUpdate) -> StateStep:
    command = None if update.command is None else Command(**update.command.model_dump())
    return StateStep(update.values, update.as_node, command)
