"""Validates, admits and launches the run of an HTTP request."""

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

_MAX_LISTED = 20
"""Assistants that an error message lists at most."""


@dataclass(frozen=True, slots=True)
class ValidatedRun:
    """A run whose request is valid as far as can be checked without the store. `thread_id` None = the run
    gets its own thread."""

    body: RunCreate
    assistant: str
    request: RunRequest
    thread_id: str | None


def validate_run(services: Services, body: RunCreate, thread_id: str | None) -> ValidatedRun:
    """Validates everything in the request that does not depend on the store. Raises InvalidArgument,
    HTTPException."""
    if body.webhook is not None:
        services.targets.parse(body.webhook)
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    assistants = services.manager.assistants
    assistant = assistants.get(body.assistant_id)
    if assistant is None:
        status = 404 if _is_uuid(body.assistant_id) else 422
        raise HTTPException(status, f"assistant_id: {unknown_assistant(assistants, body.assistant_id)}")
    request = cleaned(_request_of(body))
    assistant.validate(request)
    name = assistants.name_of(body.assistant_id) or assistant.name
    return ValidatedRun(body, name, request, thread_id)


async def start_run(
    services: Services,
    caller: Caller,
    run: ValidatedRun,
    *,
    idempotency_key: str | None = None,
    firing: Firing | None = None,
) -> RunRecord:
    """Admits the run and launches it; it may be queued on its thread. A repeated `idempotency_key` returns
    the record of the first run and launches nothing. `firing` is the moment of the cron that starts the run.
    Raises InvalidArgument and the exceptions of admission."""
    manager, body = services.manager, run.body
    await _check_checkpoint(services, caller, run)
    own_thread = run.thread_id is None
    admit = partial(
        manager.create_or_reject,
        assistant_id=run.assistant,
        on_disconnect=body.on_disconnect,
        metadata=run.request.metadata,
        kwargs=run.request.kwargs(),
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
    record = await _admit(manager, caller, run.thread_id, idempotency_key, admit)
    if not record.already_admitted:
        manager.launch(record)
    return record


def unknown_assistant(assistants: Assistants, assistant_id: str) -> str:
    """Returns an error message about `assistant_id` that lists the registered assistants."""
    names = [repr(name) for name in sorted(assistants.names)[:_MAX_LISTED]]
    ellipsis = ", …" if len(assistants.names) > _MAX_LISTED else ""
    available = f"registered are {', '.join(names)}{ellipsis}" if names else "none is registered"
    return f"no assistant has the name or id {assistant_id[:64]!r}: {available}"


async def _check_checkpoint(services: Services, caller: Caller, wanted: ValidatedRun) -> None:
    """Checks that the requested checkpoint exists. Only for functions: their checkpoints are in the store.
    Raises InvalidArgument."""
    ref, assistants = wanted.request.checkpoint, services.manager.assistants
    assistant = assistants.get(wanted.assistant)
    if ref is None or ref == CheckpointRef() or not isinstance(assistant, FunctionAssistant):
        return
    user_id, found = caller.user_id, None
    if wanted.thread_id is not None:
        with suppress(ThreadNotFound):
            found = await services.manager.threads.state(wanted.thread_id, ref, user_id=user_id)
    if found is None:
        raise InvalidArgument("checkpoint", "the thread has no such checkpoint")


async def _admit(
    manager: RunManager,
    caller: Caller,
    thread_id: str | None,
    idempotency_key: str | None,
    admit: Callable[[str], Awaitable[RunRecord]],
) -> RunRecord:
    """Admits the run on `thread_id`; None = on a new thread with a random id. For a new thread the
    idempotency key is resolved per user, to the thread on which it was used first. If that admission happens
    concurrently, the conflict shows that it is committed, and the second attempt finds its thread."""
    if thread_id is not None:
        return await admit(thread_id)
    if idempotency_key is None:
        return await admit(str(uuid4()))
    used = await manager.runs.thread_of_key(idempotency_key, user_id=caller.user_id)
    try:
        return await admit(used or str(uuid4()))
    except IdempotencyConflict:
        used = None if used else await manager.runs.thread_of_key(idempotency_key, user_id=caller.user_id)
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
        checkpoint=body.start_checkpoint,
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
