"""A run as it is asked for over HTTP: checked, admitted, begun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

from fastapi import HTTPException

from coordinator.assistants.function import FunctionAssistant
from coordinator.assistants.registry import Assistants
from coordinator.assistants.requests import cleaned
from coordinator.errors import IdempotencyConflict, InvalidArgument, ThreadNotFound
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import RunCreate, check_metadata
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import CheckpointRef, Command, RunRequest
from stores.crons import Firing

_NAMED = 20
"""Assistants that an error names."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that may be admitted, as far as can be said without the store. `thread_id` None = on a thread of
    its own."""

    body: RunCreate
    assistant: str
    request: RunRequest
    thread_id: str | None


def checked(services: Services, body: RunCreate, thread_id: str | None) -> Wanted:
    """Everything that can be wrong with the request itself. Raises InvalidArgument, HTTPException."""
    if body.webhook is not None:
        services.targets.parse(body.webhook)
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    assistants = services.manager.assistants
    assistant = assistants.get(body.assistant_id)
    if assistant is None:
        status = 404 if _is_uuid(body.assistant_id) else 422
        raise HTTPException(status, f"assistant_id: {unknown(assistants, body.assistant_id)}")
    request = cleaned(_request_of(body))
    assistant.validate(request)
    name = assistants.name_of(body.assistant_id) or assistant.name
    return Wanted(body, name, request, thread_id)


async def begin(
    services: Services,
    caller: Caller,
    wanted: Wanted,
    *,
    idempotency_key: str | None = None,
    firing: Firing | None = None,
) -> RunRecord:
    """Admit it and set it going; it waits for its turn. `firing`: the moment of a cron that it is for.
    Raises what admission raises."""
    manager, body = services.manager, wanted.body
    await _check_checkpoint(services, caller, wanted)
    own_thread = wanted.thread_id is None
    admit = partial(
        manager.create_or_reject,
        assistant_id=wanted.assistant,
        on_disconnect=body.on_disconnect,
        metadata=wanted.request.metadata,
        kwargs=wanted.request.kwargs(),
        multitask_strategy=body.multitask_strategy,
        user_id=caller.user_id,
        idempotency_key=idempotency_key,
        thread_must_exist=not own_thread and body.if_not_exists == "reject",
        adopt_thread=False,
        temporary_thread=own_thread and body.on_completion == "delete",
        after_seconds=body.after_seconds,
        webhook=body.webhook,
        firing=firing,
    )
    record = await _admitted(manager, caller, wanted.thread_id, idempotency_key, admit)
    if not record.already_admitted:
        manager.launch(record)
    return record


def unknown(assistants: Assistants, assistant_id: str) -> str:
    """What is wrong with the id, and what there is."""
    names = [repr(name) for name in sorted(assistants.names)[:_NAMED]]
    more = ", …" if len(assistants.names) > _NAMED else ""
    there = f"there are {', '.join(names)}{more}" if names else "there is none"
    return f"no assistant is called {assistant_id[:64]!r}: {there}"


async def _check_checkpoint(services: Services, caller: Caller, wanted: Wanted) -> None:
    """Of a function, whose thread's state is in the store. Raises InvalidArgument where there is none."""
    ref, assistants = wanted.request.checkpoint, services.manager.assistants
    assistant = assistants.get(wanted.assistant)
    if ref is None or ref == CheckpointRef() or not isinstance(assistant, FunctionAssistant):
        return
    user_id, found = caller.user_id, None
    if wanted.thread_id is not None:
        with suppress(ThreadNotFound):
            found = await services.manager.state(wanted.thread_id, ref, user_id=user_id)
    if found is None:
        raise InvalidArgument("checkpoint", "the thread has no such checkpoint")


async def _admitted(
    manager: RunManager,
    caller: Caller,
    thread_id: str | None,
    idempotency_key: str | None,
    admit: Callable[[str], Awaitable[RunRecord]],
) -> RunRecord:
    """On that thread; None = on one of its own, with an id that nobody can guess. There a key counts for the
    user, wherever it was used first: by the time of a conflict the other request has been admitted."""
    if thread_id is not None:
        return await admit(thread_id)
    if idempotency_key is None:
        return await admit(str(uuid4()))
    used = await manager.thread_of_key(idempotency_key, user_id=caller.user_id)
    try:
        return await admit(used or str(uuid4()))
    except IdempotencyConflict:
        used = None if used else await manager.thread_of_key(idempotency_key, user_id=caller.user_id)
        if used is None:
            raise
    return await admit(used)


def _request_of(body: RunCreate) -> RunRequest:
    command = body.command
    return RunRequest(
        input=body.input,
        command=None if command is None else Command(**command.model_dump()),
        config=None if body.config is None else body.config.model_dump(exclude_none=True),
        context=body.context,
        checkpoint=body.begins_at,
        metadata=body.metadata,
        stream_mode=tuple(body.stream_mode),
        stream_subgraphs=body.stream_subgraphs,
        stream_resumable=body.stream_resumable,
        interrupt_before=body.interrupt_before,
        interrupt_after=body.interrupt_after,
        durability=body.durability,
        checkpoint_during=body.checkpoint_during,
        feedback_keys=tuple(body.feedback_keys or ()),
        langsmith_tracer=body.langsmith_tracer,
        strict_resume=body.strict_resume,
    )


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
