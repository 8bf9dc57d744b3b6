"""A run as it is asked for over HTTP: checked, admitted, begun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID, uuid4, uuid5

from fastapi import HTTPException

from coordinator.assistants.requests import cleaned
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import RunCreate, check_metadata, ref_of
from coordinator.record import RunRecord
from coordinator.schemas import Command, RunRequest
from stores.crons import Firing

_OWN_THREADS = UUID("5f0dd6f4-6c1b-5b0e-9a3a-0b8b8f2f6a11")


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
        raise HTTPException(404 if _is_uuid(body.assistant_id) else 422, "assistant_id: no such assistant")
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
    if body.webhook is not None:
        await services.targets.check(body.webhook)
    own_thread = wanted.thread_id is None
    record = await manager.create_or_reject(
        wanted.thread_id or _own_thread(caller.user_id, idempotency_key),
        wanted.assistant,
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
    if not record.already_admitted:
        manager.launch(record)
    return record


def _own_thread(user_id: str | None, idempotency_key: str | None) -> str:
    """A key counts on its thread: the same key has to lead to the same one again."""
    if idempotency_key is None:
        return str(uuid4())
    return str(uuid5(_OWN_THREADS, json.dumps([user_id, idempotency_key])))


def _request_of(body: RunCreate) -> RunRequest:
    command = body.command
    return RunRequest(
        input=body.input,
        command=None if command is None else Command(**command.model_dump()),
        config=None if body.config is None else body.config.model_dump(exclude_none=True),
        context=body.context,
        checkpoint=ref_of(body.checkpoint, body.checkpoint_id),
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
