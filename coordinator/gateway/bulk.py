"""Cancels runs by filters: counts the matching runs, then cancels them in batches."""

from __future__ import annotations

import time

from fastapi import HTTPException
from pydantic import Field

from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.created_assistants import as_uuid
from coordinator.gateway.lazy import LazyModel
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import Action, check_metadata
from coordinator.gateway.wire.runs import RunsCancel
from coordinator.resources.runs import Cancelled
from stores.finding import RunQuery

MAX_CANCELLED = 10_000
"""Runs that one request cancels at most. The client repeats the request for the rest."""
MAX_SHOWN = 20


class CancelledRuns(LazyModel):
    dry_run: bool
    matched: int = Field(description="Matching runs in flight that were not cancelled yet; 100000 = or more")
    cancelled: int
    ended: int = Field(description="Runs that had ended before their cancel")
    left: int = Field(description="Matching runs that remain: repeat the request to cancel them")
    run_ids: list[str] = Field(description="The first matching runs")


async def cancel(services: Services, caller: Caller, body: RunsCancel, action: Action) -> CancelledRuns:
    """Cancels at most `MAX_CANCELLED` matching runs and returns counts. Each cancel is atomic by itself.
    Raises HTTPException (403), InvalidArgument."""
    manager, user_id = services.manager, _scope(caller, body)
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    matching = await manager.runs.cancellable_ids(_query(services, body), user_id=user_id)
    if body.run_ids is not None:
        requested = frozenset(body.run_ids)
        matching = [run_id for run_id in matching if run_id in requested]
    now = [] if body.dry_run else matching[:MAX_CANCELLED]
    done = Cancelled()
    if now:
        done = await manager.runs.cancel(now, action=action, actor=caller.actor, user_id=caller.user_id)
    return CancelledRuns(
        dry_run=body.dry_run,
        matched=len(matching),
        cancelled=done.cancelled,
        ended=done.ended,
        left=len(matching) - len(now),
        run_ids=matching[:MAX_SHOWN],
    )


def _scope(caller: Caller, body: RunsCancel) -> str | None:
    """Returns the user whose runs are searched; None = all users. Raises HTTPException (403)."""
    if body.user_id is None or body.user_id == caller.user_id:
        return caller.user_id
    if caller.role < Role.admin or not caller.sees_all_users:
        raise HTTPException(403, "user_id: another user's runs need a key with the role admin")
    return body.user_id


def _query(services: Services, body: RunsCancel) -> RunQuery:
    older_than, assistants = body.older_than, services.manager.assistants
    assistant, metadata = assistants.name_of(body.assistant_id), body.metadata
    if assistant is not None and assistant not in assistants and (created := as_uuid(assistant)) is not None:
        assistant, metadata = None, {**metadata, "assistant_id": created}
    return RunQuery(
        thread_id=body.thread_id,
        statuses=() if body.status in (None, "all") else (body.status,),
        assistant_id=assistant,
        metadata=metadata,
        created_before=None if older_than is None else int((time.time() - older_than) * 1e6),
    )
