"""Assistants that are registered at this worker, and equally at every worker. They cannot be created over
HTTP."""

from __future__ import annotations

from itertools import pairwise

from fastapi import HTTPException
from starlette.responses import Response

from coordinator.assistants.ports import Assistant
from coordinator.gateway.caller import Caller, CallerIn
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER
from coordinator.gateway.run_admission import unknown_assistant
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire import documents
from coordinator.gateway.wire.assistants import AssistantCount, AssistantSearch
from coordinator.gateway.wire.documents import AssistantDocument, AssistantParts, Schemas
from coordinator.schemas import Description, User
from stores.json_values import Json

router = router_of("assistants")


@router.post(
    "/assistants/search",
    dependencies=READER,
    response_model=list[AssistantParts],
    response_model_exclude_unset=True,
)
async def search_assistants(
    services: ServicesIn, caller: CallerIn, body: AssistantSearch, response: Response
) -> list[Json]:
    matching = await _matching(services, caller, body)
    matching.sort(
        key=lambda assistant: (getattr(assistant, body.sort_by), assistant.name),
        reverse=body.sort_order == "desc",
    )
    page = matching[body.offset : body.offset + body.limit]
    response.headers["X-Pagination-Total"] = str(len(matching))
    if body.offset + len(page) < len(matching):
        response.headers["X-Pagination-Next"] = str(body.offset + len(page))
    return [documents.parts(assistant.model_dump(), body.select) for assistant in page]


@router.post("/assistants/count", dependencies=READER)
async def count_assistants(services: ServicesIn, caller: CallerIn, body: AssistantCount) -> int:
    return len(await _matching(services, caller, body))


@router.get("/assistants/{assistant_id}", dependencies=READER)
async def get_assistant(services: ServicesIn, caller: CallerIn, assistant_id: str) -> AssistantDocument:
    """Returns an assistant by its name or id."""
    name, description = await _described(services, caller, assistant_id)
    return documents.assistant_document(name, description.text, services.manager.assistants)


@router.get("/assistants/{assistant_id}/schemas", dependencies=READER)
async def get_schemas(services: ServicesIn, caller: CallerIn, assistant_id: str) -> Schemas:
    """Returns the JSON schemas of input, output and state; null where the assistant has none."""
    return documents.schemas_document(*await _described(services, caller, assistant_id))


@router.get("/assistants/{assistant_id}/graph", dependencies=READER)
async def get_graph(services: ServicesIn, caller: CallerIn, assistant_id: str) -> dict[str, list[Json]]:
    """Returns nodes and edges for a drawing of the assistant."""
    name, description = await _described(services, caller, assistant_id)
    if description.drawing is not None:
        return description.drawing
    nodes = ("__start__", name, "__end__")
    return {
        "nodes": [{"id": node, "type": "runnable", "data": {"name": node}} for node in nodes],
        "edges": [{"source": source, "target": target} for source, target in pairwise(nodes)],
    }


async def _matching(services: Services, caller: Caller, body: AssistantCount) -> list[AssistantDocument]:
    assistants = services.manager.assistants
    described = [
        documents.assistant_document(name, (await _describe(assistants.named(name), caller)).text, assistants)
        for name in assistants
    ]
    return [
        assistant
        for assistant in described
        if (body.graph_id is None or body.graph_id in (assistant.graph_id, assistant.assistant_id))
        and (body.name is None or body.name.lower() in assistant.name.lower())
        and body.metadata.items() <= assistant.metadata.items()
    ]


async def _described(services: Services, caller: Caller, assistant_id: str) -> tuple[str, Description]:
    assistants = services.manager.assistants
    assistant = assistants.get(assistant_id)
    if assistant is None:
        raise HTTPException(404, unknown_assistant(assistants, assistant_id))
    return assistants.name_of(assistant_id) or assistant.name, await _describe(assistant, caller)


async def _describe(assistant: Assistant, caller: Caller) -> Description:
    return await assistant.describe(None if caller.user_id is None else User(caller.user_id))
