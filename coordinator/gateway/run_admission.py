"""Validates, admits and launches the run of an HTTP request."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

from fastapi import HTTPException

from coordinator.assistants.function import FunctionAssistant
from coordinator.assistants.registry import Assistants
from coordinator.assistants.requests import cleaned
from coordinator.errors import IdempotencyConflict, InvalidArgument, ThreadNotFound
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import check_metadata
from coordinator.gateway.wire.runs import RunCreate, RunOptions
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import CheckpointRef, Command, RunRequest
from stores.crons import Firing
from stores.spec import ROLES, RunSpec

_MAX_LISTED = 20
"""Assistants that an error message lists at most."""
_SAME_NAME = (*sorted({*RunOptions.model_fields} & {*ROLES} - {"metadata"}), "after_seconds")
"""Fields of a body that are arguments of the same name."""


def validate_run(
    services: Services,
    caller: Caller,
    body: RunCreate,
    thread_id: str | None,
    *,
    idempotency_key: str | None = None,
    firing: Firing | None = None,
) -> RunSpec:
    """Validates everything in the request that does not depend on the store, and returns the requested run.
    `thread_id` None: the run gets its own thread, with a random id. `firing` is the moment of the cron that
    starts the run. Raises InvalidArgument, HTTPException."""
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
    return services.manager.spec(
        thread_id or str(uuid4()),
        assistants.name_of(body.assistant_id) or assistant.name,
        user_id=caller.user_id,
        metadata=request.metadata,
        kwargs=request.kwargs(),
        idempotency_key=idempotency_key,
        thread_must_exist=thread_id is not None and body.if_not_exists == "reject",
        adopt_thread=False,
        temporary_thread=thread_id is None and body.on_completion == "delete",
        firing=firing,
        **{name: getattr(body, name) for name in _SAME_NAME},
    )


async def start_run(services: Services, spec: RunSpec, *, own_thread: bool = False) -> RunRecord:
    """Admits the run that `validate_run` has returned, and launches it; it may be queued on its thread.
    `own_thread`: its thread has a random id. A repeated idempotency key returns the record of the first run
    and launches nothing. Raises InvalidArgument and the exceptions of admission."""
    manager = services.manager
    await _check_checkpoint(services, spec, own_thread=own_thread)
    if own_thread and spec.idempotency_key is not None:
        record = await _admit_once(manager, spec, spec.idempotency_key)
    else:
        record = await manager.admit(spec, start=True, validated=True)
    if not record.already_admitted:
        manager.launch(record)
    return record


def unknown_assistant(assistants: Assistants, assistant_id: str) -> str:
    """Returns an error message about `assistant_id` that lists the registered assistants."""
    names = [repr(name) for name in sorted(assistants.names)[:_MAX_LISTED]]
    ellipsis = ", …" if len(assistants.names) > _MAX_LISTED else ""
    available = f"registered are {', '.join(names)}{ellipsis}" if names else "none is registered"
    return f"no assistant has the name or id {assistant_id[:64]!r}: {available}"


async def _check_checkpoint(services: Services, spec: RunSpec, *, own_thread: bool) -> None:
    """Checks that the requested checkpoint exists. Only for functions: their checkpoints are in the store.
    Raises InvalidArgument."""
    if "checkpoint" not in spec.kwargs:
        return
    ref = RunRequest.of(spec.kwargs, None).checkpoint
    assistant = services.manager.assistants.get(spec.assistant_id)
    if ref is None or ref == CheckpointRef() or not isinstance(assistant, FunctionAssistant):
        return
    state = None
    if not own_thread:
        with suppress(ThreadNotFound):
            state = await services.manager.threads.state(spec.thread_id, ref, user_id=spec.user_id)
    if state is None:
        raise InvalidArgument("checkpoint", "the thread has no such checkpoint")


async def _admit_once(manager: RunManager, spec: RunSpec, key: str) -> RunRecord:
    """Admits a run that gets its own thread. Its idempotency key is resolved per user, to the thread on which
    it was used first. If that admission happens concurrently, the conflict shows that it is committed, and
    the second attempt finds its thread."""
    used = await manager.runs.thread_of_key(key, user_id=spec.user_id)
    try:
        spec = replace(spec, thread_id=used or spec.thread_id)
        return await manager.admit(spec, start=True, validated=True)
    except IdempotencyConflict:
        used = None if used else await manager.runs.thread_of_key(key, user_id=spec.user_id)
        if used is None:
            raise
    return await manager.admit(replace(spec, thread_id=used), validated=True)


_REQUESTED = tuple(name for name in RunRequest.__dataclass_fields__ if name in RunOptions.model_fields)


def _request_of(body: RunCreate) -> RunRequest:
    command, config = body.command, body.config
    request = {name: getattr(body, name) for name in _REQUESTED}
    request |= {
        "command": None if command is None else Command(**command.model_dump()),
        "config": None if config is None else config.model_dump(exclude_none=True),
        "checkpoint": body.start_checkpoint,
        "stream_mode": tuple(body.stream_mode),
        "feedback_keys": tuple(body.feedback_keys or ()),
    }
    return RunRequest(**request)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
