"""Assistants: those that are registered at this worker, and equally at every worker, and those that clients
create from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Annotated

from fastapi import HTTPException, Query
from pydantic import Field
from starlette.responses import Response

from coordinator.assistants.ports import Assistant, Listed
from coordinator.gateway import created_assistants
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.created_assistants import unknown_assistant
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, USER, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.assistants import (
    AssistantCount,
    AssistantCreate,
    AssistantPatch,
    AssistantSearch,
    AssistantVersionChange,
    AssistantVersions,
)
from coordinator.gateway.wire.documents import AssistantDocument, AssistantParts, Schemas
from coordinator.schemas import Description
from stores.assistants import AssistantQuery, AssistantRow
from stores.json_values import Json

router = router_of("assistants")

XrayDepth = Annotated[int, Field(ge=0, le=100)]


@router.post("/assistants", dependencies=USER)
async def create_assistant(
    services: ServicesIn, caller: CallerIn, body: AssistantCreate
) -> AssistantDocument:
    """Create an assistant from a registered one. With `do_nothing` an existing assistant stays unchanged."""
    if body.if_exists == "do_nothing" and body.assistant_id in services.manager.assistants:
        return await get_assistant(services, caller, str(body.assistant_id))
    return documents.client_assistant_document(await created_assistants.create(services, caller, body))


@router.post(
    "/assistants/search",
    dependencies=READER,
    response_model=list[AssistantParts],
    response_model_exclude_unset=True,
)
async def search_assistants(
    services: ServicesIn, caller: CallerIn, body: AssistantSearch, response: Response
) -> list[Json]:
    """Search the registered assistants and those of the caller. `X-Pagination-Total` is their number,
    `X-Pagination-Next` the offset of the next page if there is one."""
    listing = await created_assistants.search(services, caller, body, await _matching(services, caller, body))
    response.headers["X-Pagination-Total"] = str(listing.total)
    if listing.more:
        response.headers["X-Pagination-Next"] = str(body.offset + len(listing.page))
    return [documents.parts(assistant.model_dump(), body.select) for assistant in listing.page]


@router.post("/assistants/count", dependencies=READER)
async def count_assistants(services: ServicesIn, caller: CallerIn, body: AssistantCount) -> int:
    created = await created_assistants.count(services, caller, created_assistants.query_of(services, body))
    return created + len(await _matching(services, caller, body))


@router.get("/assistants/{assistant_id}", dependencies=READER)
async def get_assistant(services: ServicesIn, caller: CallerIn, assistant_id: str) -> AssistantDocument:
    """Returns an assistant by its name or id, a created one in its latest version."""
    assistant, name, created = await _named(services, caller, assistant_id)
    if created is not None:
        return documents.client_assistant_document(created)
    return documents.assistant_document(name, await _text(assistant, caller), services.manager.assistants)


@router.patch("/assistants/{assistant_id}", dependencies=acting())
async def patch_assistant(
    services: ServicesIn, caller: CallerIn, assistant_id: str, body: AssistantPatch
) -> AssistantDocument:
    """Change the given fields, as a further version. Runs that were admitted are not affected."""
    row = await created_assistants.change(services, caller, assistant_id, body)
    return documents.client_assistant_document(row)


@router.delete("/assistants/{assistant_id}", dependencies=acting("delete_threads"), status_code=204)
async def delete_assistant(
    services: ServicesIn,
    caller: CallerIn,
    assistant_id: str,
    delete_threads: Annotated[bool, Query(description="Remove the threads of its runs as well")] = False,
) -> None:
    """Remove an assistant with its versions and crons. Its runs stay, including those in flight."""
    await created_assistants.delete(services, caller, assistant_id, with_threads=delete_threads)


@router.post("/assistants/{assistant_id}/versions", dependencies=READER)
async def get_versions(
    services: ServicesIn, caller: CallerIn, assistant_id: str, body: AssistantVersions
) -> list[AssistantDocument]:
    """Returns the versions of an assistant, the newest first. A registered one has one."""
    assistant, name, created = await _named(services, caller, assistant_id)
    if created is None:
        text = await _text(assistant, caller)
        only = documents.assistant_document(name, text, services.manager.assistants)
        return [only] if not body.offset and body.metadata.items() <= only.metadata.items() else []
    query = AssistantQuery(metadata=body.metadata, limit=body.limit, offset=body.offset)
    query = replace(query, max_bytes=services.settings.max_page_bytes)
    rows = await services.manager.client_assistants.versions(
        created.assistant_id, query, user_id=caller.user_id
    )
    return [documents.client_assistant_document(row) for row in rows]


@router.post("/assistants/{assistant_id}/latest", dependencies=acting())
async def set_latest(
    services: ServicesIn, caller: CallerIn, assistant_id: str, body: AssistantVersionChange
) -> AssistantDocument:
    """Make a former version the latest one."""
    row = await created_assistants.set_latest(services, caller, assistant_id, body.version)
    return documents.client_assistant_document(row)


@router.get("/assistants/{assistant_id}/schemas", dependencies=READER)
async def get_schemas(services: ServicesIn, caller: CallerIn, assistant_id: str) -> Schemas:
    """Returns the JSON schemas of input, output and state; null where the assistant has none."""
    name, description = await _described(services, caller, assistant_id)
    return documents.schemas_document(services.manager.assistants.graph_of(name), description)


@router.get("/assistants/{assistant_id}/graph", dependencies=READER)
async def get_graph(
    services: ServicesIn,
    caller: CallerIn,
    assistant_id: str,
    xray: Annotated[
        XrayDepth | bool, Query(description="Draw subgraphs: all of them, or to a depth")
    ] = False,
) -> dict[str, list[Json]]:
    """Returns nodes and edges for a drawing of the assistant."""
    name, description = await _described(services, caller, assistant_id, xray=xray)
    if description.drawing is not None:
        return description.drawing
    nodes = ("__start__", name, "__end__")
    return {
        "nodes": [{"id": node, "type": "runnable", "data": {"name": node}} for node in nodes],
        "edges": [{"source": source, "target": target} for source, target in pairwise(nodes)],
    }


@router.get("/assistants/{assistant_id}/subgraphs", dependencies=READER)
async def get_subgraphs(
    services: ServicesIn, caller: CallerIn, assistant_id: str, recurse: Annotated[bool, Query()] = False
) -> dict[str, Schemas]:
    """Returns the schemas of the assistant's subgraphs by namespace, with `recurse` those of subgraphs as
    well."""
    return await _subgraphs(services, caller, assistant_id, None, recurse)


@router.get("/assistants/{assistant_id}/subgraphs/{namespace}", dependencies=READER)
async def get_subgraph(
    services: ServicesIn,
    caller: CallerIn,
    assistant_id: str,
    namespace: str,
    recurse: Annotated[bool, Query()] = False,
) -> dict[str, Schemas]:
    """Returns the schemas of one subgraph, with `recurse` those of its subgraphs as well. Empty if there is
    none."""
    return await _subgraphs(services, caller, assistant_id, namespace, recurse)


async def _subgraphs(
    services: Services, caller: Caller, assistant_id: str, namespace: str | None, recurse: bool
) -> dict[str, Schemas]:
    assistant, name, _ = await _named(services, caller, assistant_id)
    described = await assistant.subgraphs(namespace, recurse=recurse, user=caller.user)
    graph_id = services.manager.assistants.graph_of(name)
    return {
        subgraph: documents.schemas_document(graph_id, description)
        for subgraph, description in described.items()
    }


async def _matching(services: Services, caller: Caller, body: AssistantCount) -> list[AssistantDocument]:
    assistants = services.manager.assistants
    described = [
        documents.assistant_document(name, await _text(assistants.named(name), caller), assistants)
        for name in assistants
    ]
    return [
        assistant
        for assistant in described
        if (body.graph_id is None or body.graph_id in (assistant.graph_id, assistant.assistant_id))
        and (body.name is None or body.name.lower() in assistant.name.lower())
        and body.metadata.items() <= assistant.metadata.items()
    ]


async def _text(assistant: Assistant, caller: Caller) -> str | None:
    """Returns the description, without opening the graph of an assistant that can be listed without it."""
    return assistant.text if isinstance(assistant, Listed) else (await assistant.describe(caller.user)).text


async def _described(
    services: Services, caller: Caller, assistant_id: str, *, xray: bool | int = False
) -> tuple[str, Description]:
    assistant, name, _ = await _named(services, caller, assistant_id)
    return name, await assistant.describe(caller.user, xray=xray)


async def _named(
    services: Services, caller: Caller, assistant_id: str
) -> tuple[Assistant, str, AssistantRow | None]:
    """Returns the registered assistant and its name, and the created assistant if the id is that of one.
    Raises HTTPException."""
    assistants = services.manager.assistants
    assistant = assistants.get(assistant_id)
    if assistant is not None:
        return assistant, assistants.name_of(assistant_id) or assistant.name, None
    created = await created_assistants.client_assistant(services, caller, assistant_id)
    if created is None:
        raise HTTPException(404, unknown_assistant(assistants, assistant_id))
    return created_assistants.registered(assistants, created), created.graph_id, created
