"""Assistants: those that this worker has registered, the same on every worker. Nobody makes any over HTTP."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fastapi import HTTPException
from starlette.responses import Response

from coordinator.assistants.ports import Assistant
from coordinator.gateway.beginning import unknown
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.bodies import AssistantCount, AssistantSearch
from coordinator.gateway.wire.documents import AssistantDocument, AssistantParts, Schemas
from coordinator.schemas import Description, User

router = router_of("assistants")


@router.post(
    "/assistants/search",
    dependencies=READER,
    response_model=list[AssistantParts],
    response_model_exclude_unset=True,
)
async def search_assistants(
    services: ServicesIn, caller: CallerIn, body: AssistantSearch, response: Response
) -> list[Any]:
    found = await _found(services, caller, body)
    found.sort(key=lambda one: (getattr(one, body.sort_by), one.name), reverse=body.sort_order == "desc")
    page = found[body.offset : body.offset + body.limit]
    response.headers["X-Pagination-Total"] = str(len(found))
    if body.offset + len(page) < len(found):
        response.headers["X-Pagination-Next"] = str(body.offset + len(page))
    return [documents.parts(one, body.select) for one in page]


@router.post("/assistants/count", dependencies=READER)
async def count_assistants(services: ServicesIn, caller: CallerIn, body: AssistantCount) -> int:
    return len(await _found(services, caller, body))


@router.get("/assistants/{assistant_id}", dependencies=READER)
async def get_assistant(services: ServicesIn, caller: CallerIn, assistant_id: str) -> AssistantDocument:
    """By name or by id."""
    name, description = await _described(services, caller, assistant_id)
    return documents.assistant_document(name, description.text, services.manager.assistants)


@router.get("/assistants/{assistant_id}/schemas", dependencies=READER)
async def get_schemas(services: ServicesIn, caller: CallerIn, assistant_id: str) -> Schemas:
    """What it takes and keeps, as JSON schemas; null where it does not say."""
    return documents.schemas_document(*await _described(services, caller, assistant_id))


@router.get("/assistants/{assistant_id}/graph", dependencies=READER)
async def get_graph(services: ServicesIn, caller: CallerIn, assistant_id: str) -> dict[str, list[Any]]:
    """How it may be drawn: nodes and edges."""
    name, description = await _described(services, caller, assistant_id)
    if description.drawing is not None:
        return description.drawing
    nodes = ("__start__", name, "__end__")
    return {
        "nodes": [{"id": node, "type": "runnable", "data": {"name": node}} for node in nodes],
        "edges": [{"source": source, "target": target} for source, target in pairwise(nodes)],
    }


async def _found(services: Services, caller: Caller, body: AssistantCount) -> list[AssistantDocument]:
    assistants = services.manager.assistants
    documented = [
        documents.assistant_document(name, (await _describe(assistants.named(name), caller)).text, assistants)
        for name in assistants
    ]
    return [
        one
        for one in documented
        if (body.graph_id is None or body.graph_id in (one.graph_id, one.assistant_id))
        and (body.name is None or body.name.lower() in one.name.lower())
        and body.metadata.items() <= one.metadata.items()
    ]


async def _described(services: Services, caller: Caller, assistant_id: str) -> tuple[str, Description]:
    assistants = services.manager.assistants
    assistant = assistants.get(assistant_id)
    if assistant is None:
        raise HTTPException(404, unknown(assistants, assistant_id))
    return assistants.name_of(assistant_id) or assistant.name, await _describe(assistant, caller)


async def _describe(assistant: Assistant, caller: Caller) -> Description:
    return await assistant.describe(None if caller.user_id is None else User(caller.user_id))
