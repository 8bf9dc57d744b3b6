"""Assistants that clients create over HTTP: validates, creates and changes them; lists them together with the
registered ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID, uuid4

from fastapi import HTTPException

from coordinator.assistants.ports import Assistant
from coordinator.assistants.registry import Assistants
from coordinator.assistants.requests import cleaned
from coordinator.errors import (
    AssistantExists,
    AssistantNotFound,
    CronNotFound,
    InvalidArgument,
    ThreadNotFound,
)
from coordinator.gateway import stopping
from coordinator.gateway.caller import Caller
from coordinator.gateway.services import Services
from coordinator.gateway.wire.assistants import (
    AssistantCount,
    AssistantCreate,
    AssistantPatch,
    AssistantSearch,
)
from coordinator.gateway.wire.bodies import check_metadata
from coordinator.gateway.wire.documents import AssistantDocument, client_assistant_document
from coordinator.manager import RunManager
from coordinator.schemas import RunRequest
from stores.assistants import AssistantQuery, AssistantRow
from stores.catalogue import ThreadQuery
from stores.crons import CronQuery
from stores.json_values import JsonObject
from stores.pages import Page

_MAX_ATTEMPTS = 5
_PAGE = 100


def unknown_assistant(assistants: Assistants, assistant_id: str) -> str:
    """Returns an error message about `assistant_id` that lists the registered assistants."""
    available = f"registered are {assistants.listed}" if len(assistants) else "none is registered"
    if as_uuid(assistant_id) is not None:
        return f"no assistant has the id {assistant_id!r}: it was deleted, or is another user's; {available}"
    return f"no assistant has the name or id {assistant_id[:64]!r}: {available}"


def as_uuid(text: str) -> str | None:
    """Returns the id in the form in which it is stored; None if it is no UUID."""
    try:
        return str(UUID(text))
    except ValueError:
        return None


async def client_assistant(services: Services, caller: Caller, assistant_id: str) -> AssistantRow | None:
    return await client_assistant_of(services.manager, assistant_id, caller.user_id)


async def client_assistant_of(
    manager: RunManager, assistant_id: str, user_id: str | None
) -> AssistantRow | None:
    """Returns the user's assistant with this id that a client created; None if there is none."""
    known, created = as_uuid(assistant_id), manager.client_assistants
    if known is None or not created.kept:
        return None
    try:
        return await created.get(known, user_id=user_id)
    except AssistantNotFound:
        return None


def registered(assistants: Assistants, created: AssistantRow) -> Assistant:
    """Returns the assistant that executes the runs of a created one. Raises HTTPException (409) if this
    worker does not register it."""
    assistant = assistants.get(created.graph_id)
    if assistant is None:
        raise HTTPException(
            409,
            f"assistant {created.assistant_id!r} needs the assistant {created.graph_id!r}, which is not"
            " registered here: register it, or change graph_id",
        )
    return assistant


# -- create, change, delete


async def create(services: Services, caller: Caller, body: AssistantCreate) -> AssistantRow:
    """Raises InvalidArgument, AssistantExists; HTTPException (409) for the id of a registered assistant."""
    created = services.manager.client_assistants
    _check_not_registered(services, body.assistant_id)
    new = AssistantRow(
        assistant_id=body.assistant_id or str(uuid4()),
        user_id=caller.user_id,
        graph_id=_graph_of(services, body.graph_id),
        name=body.name,
        description=body.description,
        **_configuration(services, body),
    )
    try:
        return await created.create(new)
    except AssistantExists:
        if body.if_exists == "raise":
            raise
    try:
        return await created.get(new.assistant_id, user_id=caller.user_id)
    except AssistantNotFound:  # of another user, or deleted meanwhile
        raise AssistantExists(new.assistant_id) from None


async def change(services: Services, caller: Caller, assistant_id: str, body: AssistantPatch) -> AssistantRow:
    """Merges the changes into the assistant, as a further version. Compares and swaps, with retries. Raises
    InvalidArgument, AssistantNotFound; HTTPException (409) if concurrent changes win every attempt."""
    fields: JsonObject = {
        name: getattr(body, name) for name in ("name", "description") if getattr(body, name) is not None
    }
    if body.graph_id is not None:
        fields["graph_id"] = _graph_of(services, body.graph_id)
    given = _configuration(services, body)
    for _ in range(_MAX_ATTEMPTS):
        existing = await _existing(services, caller, assistant_id)
        metadata = {**existing.metadata, **given["metadata"]}
        check_metadata(metadata, services.settings.max_metadata_bytes)
        changed = replace(existing, **fields, **_merged(existing, body, given), metadata=metadata)
        written = await services.manager.client_assistants.change(changed, user_id=caller.user_id)
        if written is not None:
            return written
    raise HTTPException(409, "other requests are changing the assistant: retry")


async def set_latest(services: Services, caller: Caller, assistant_id: str, version: int) -> AssistantRow:
    """Raises AssistantNotFound, HTTPException (409)."""
    _check_not_registered(services, assistant_id)
    return await services.manager.client_assistants.set_version(
        _known(assistant_id), version, user_id=caller.user_id
    )


async def delete(services: Services, caller: Caller, assistant_id: str, *, with_threads: bool) -> None:
    """Removes the crons of the assistant, its threads if requested, then the assistant: after a failure
    between them the request can be repeated. Raises AssistantNotFound, HTTPException (409)."""
    _check_not_registered(services, assistant_id)
    known, manager = _known(assistant_id), services.manager
    mine: JsonObject = {"assistant_id": known}
    await _existing(services, caller, known)
    crons = CronQuery(metadata={**mine}, limit=_PAGE)
    while page := await manager.crons.search(crons, user_id=caller.user_id):
        for cron in page:
            with suppress(CronNotFound):
                await manager.crons.delete(cron.cron_id, user_id=caller.user_id)
    threads = ThreadQuery(metadata=mine, limit=_PAGE)
    while with_threads and (
        page := await manager.threads.search(threads, with_values=False, user_id=caller.user_id)
    ):
        for thread in page:
            with suppress(ThreadNotFound):
                await stopping.delete_thread(manager, thread.thread_id, caller)
    await manager.client_assistants.delete(known, user_id=caller.user_id)


async def _existing(services: Services, caller: Caller, assistant_id: str) -> AssistantRow:
    _check_not_registered(services, assistant_id)
    return await services.manager.client_assistants.get(_known(assistant_id), user_id=caller.user_id)


def _known(assistant_id: str) -> str:
    """Raises AssistantNotFound if it is no UUID."""
    known = as_uuid(assistant_id)
    if known is None:
        raise AssistantNotFound(assistant_id[:64])
    return known


def _check_not_registered(services: Services, assistant_id: str | None) -> None:
    name = services.manager.assistants.name_of(assistant_id)
    if name in services.manager.assistants:
        raise HTTPException(
            409,
            f"assistant {name!r} is registered by the server's code, which clients cannot change: create an"
            f" assistant with graph_id {name!r}",
        )


def _graph_of(services: Services, graph_id: str) -> str:
    """Returns the name of the registered assistant. Raises InvalidArgument."""
    assistants = services.manager.assistants
    if graph_id not in assistants:
        raise InvalidArgument("graph_id", unknown_assistant(assistants, graph_id))
    return assistants.name_of(graph_id) or graph_id


def _configuration(services: Services, body: AssistantCreate | AssistantPatch) -> JsonObject:
    """Returns config, context and metadata without the keys that only the server sets. Raises
    InvalidArgument."""
    check_metadata(body.metadata, services.settings.max_metadata_bytes)
    config = {} if body.config is None else body.config.model_dump(exclude_none=True)
    if config.get("configurable") and body.context:
        raise InvalidArgument("context", "excludes config.configurable: give the context alone")
    request = cleaned(RunRequest(config=config, context=body.context or {}, metadata=body.metadata))
    return {"config": request.config, "context": request.context, "metadata": request.metadata}


def _merged(existing: AssistantRow, body: AssistantPatch, given: JsonObject) -> JsonObject:
    """A given config or context replaces the former one. Of context and configurable, the later counts."""
    config = existing.config if body.config is None else given["config"]
    context = existing.context if body.context is None else given["context"]
    if body.context is not None:
        config = {key: value for key, value in config.items() if key != "configurable"}
    elif config.get("configurable") and body.config is not None:
        context = {}
    return {"config": config, "context": context}


# -- lists


class Listing(NamedTuple):
    """`more`: whether assistants follow."""

    page: list[AssistantDocument]
    total: int
    more: bool


async def search(
    services: Services, caller: Caller, body: AssistantSearch, others: Sequence[AssistantDocument]
) -> Listing:
    """Returns a page of the caller's assistants and of `others`, the registered ones that match, in the order
    of all of them. Raises SearchTooLong."""
    before = min(body.offset, len(others))
    query = replace(
        query_of(services, body),
        sort_by=body.sort_by,
        sort_order=body.sort_order,
        limit=body.limit + before,
        offset=body.offset - before,
        max_bytes=services.settings.max_page_bytes,
    )
    created = services.manager.client_assistants
    rows = Page[AssistantRow]()
    if created.kept:
        rows = await created.search(query, user_id=caller.user_id)
    documents = [client_assistant_document(row) for row in rows]
    last = documents[-1].assistant_id if rows.cut else None
    merged = sorted(
        [*others, *documents],
        key=lambda each: (getattr(each, body.sort_by), each.name, each.assistant_id),
        reverse=body.sort_order == "desc",
    )
    if last is not None:  # what is behind it may have others between
        merged = merged[: 1 + next(at for at, each in enumerate(merged) if each.assistant_id == last)]
    page = merged[before : before + body.limit]
    total = len(others) + await count(services, caller, query)
    return Listing(page, total, body.offset + len(page) < total)


async def count(services: Services, caller: Caller, query: AssistantQuery) -> int:
    """Returns the number of the caller's created assistants that match. Raises SearchTooLong."""
    created = services.manager.client_assistants
    return await created.count(query, user_id=caller.user_id) if created.kept else 0


def query_of(services: Services, body: AssistantCount) -> AssistantQuery:
    graph_id = services.manager.assistants.name_of(body.graph_id)
    return AssistantQuery(graph_id=graph_id, name=body.name, metadata=body.metadata)
