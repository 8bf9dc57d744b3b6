"""Validates, admits and launches the run of an HTTP request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import cast
from uuid import UUID

from fastapi import HTTPException

from coordinator.assistants.configured import configured
from coordinator.assistants.function import FunctionAssistant
from coordinator.assistants.requests import cleaned
from coordinator.errors import IdempotencyConflict, InvalidArgument, ThreadNotFound
from coordinator.gateway.caller import Caller
from coordinator.gateway.created_assistants import as_uuid, client_assistant, registered, unknown_assistant
from coordinator.gateway.services import Services
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import check_metadata
from coordinator.gateway.wire.runs import RunCreate, RunOptions
from coordinator.ids import random_hex
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import CheckpointRef, Command, RunRequest
from stores.assistants import AssistantRow
from stores.crons import Firing
from stores.json_values import JsonObject
from stores.spec import ROLES, RunSpec

_SAME_NAME = (*sorted({*RunOptions.model_fields} & {*ROLES} - {"metadata"}), "after_seconds")
"""Fields of a body that are arguments of the same name."""


async def validate_run(
    services: Services,
    caller: Caller,
    body: RunCreate,
    thread_id: str | None,
    *,
    idempotency_key: str | None = None,
    firing: Firing | None = None,
) -> RunSpec:
    """Validates everything in the request that does not depend on its thread, and returns the requested run.
    Reads the store once if a client created the assistant, otherwise not. `thread_id` None: the run gets its
    own thread, with a random id. `firing` is the moment of the cron that starts the run. Raises
    InvalidArgument, HTTPException."""
    if body.webhook is not None:
        services.targets.parse(body.webhook)
        if services.extension.webhooks.disabled:
            body = body.model_copy(update={"webhook": None})
    if thread_id is None and body.command is not None and "resume" in body.command.model_fields_set:
        why = "a run without a thread has no question to answer: send it to the thread of the paused run"
        raise InvalidArgument("command.resume", why)
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    assistants = services.manager.assistants
    assistant = assistants.get(body.assistant_id)
    request, name = cleaned(_request_of(body)), assistants.name_of(body.assistant_id)
    if assistant is None:
        created = await _created(services, caller, body.assistant_id)
        request, name = configured(request, created), created.graph_id
        assistant = registered(assistants, created)
    request = _with_headers(request, caller.configurable)
    assistant.validate(request)
    return services.manager.spec(
        thread_id or str(UUID(random_hex(), version=4)),
        name or assistant.name,
        user=caller.user,
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
    """Admits the run that `validate_run` has returned, and launches it; it may be queued. On a worker
    that only admits, another one executes it.
    `own_thread`: its thread has a random id. A repeated idempotency key returns the record of the first run
    and launches nothing. Raises InvalidArgument and the exceptions of admission."""
    manager = services.manager
    await _check_checkpoint(services, spec, own_thread=own_thread)
    if own_thread and spec.idempotency_key is not None:
        record = await _admit_once(manager, spec, spec.idempotency_key)
    else:
        record = await manager.admit(spec, start=True, validated=True)
    if not record.already_admitted and not record.store_only:
        manager.launch(record)
    return record


async def created_document(services: Services, record: RunRecord, caller: Caller) -> JsonObject:
    """Returns the `Run` that `start_run` has returned, as it was admitted; as it is now if a repeated key has
    found it. Raises RunNotFound if that one was rolled back."""
    assistants = services.manager.assistants
    if not record.already_admitted:
        return documents.run_created(record, assistants)
    row = await services.manager.runs.get(record.run_id, user_id=caller.user_id)
    return documents.run_document(row, assistants, position=await services.manager.runs.position(row))


async def _created(services: Services, caller: Caller, assistant_id: str) -> AssistantRow:
    """Returns the assistant of the caller that a client created. Raises HTTPException (404; 422 if it is no
    id)."""
    created = await client_assistant(services, caller, assistant_id)
    if created is None:
        status = 404 if as_uuid(assistant_id) is not None else 422
        why = unknown_assistant(services.manager.assistants, assistant_id)
        raise HTTPException(status, f"assistant_id: {why}")
    return created


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


def _with_headers(request: RunRequest, headers: Mapping[str, str]) -> RunRequest:
    """Adds headers to `config.configurable`, where they replace the client's own keys, without those of the
    server."""
    if not headers:
        return request
    allowed = cast("JsonObject", cleaned(RunRequest(config={"configurable": headers})).config)["configurable"]
    config = cast("JsonObject", request.config or {})
    given = cast("JsonObject", config.get("configurable") or {})
    configurable: JsonObject = {**given, **allowed}
    return replace(request, config={**config, "configurable": configurable})
