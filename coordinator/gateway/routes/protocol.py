"""The Agent Streaming Protocol: commands, and the events of a thread."""

from __future__ import annotations

from typing import cast

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from coordinator.errors import CoordinatorError
from coordinator.gateway import errors
from coordinator.gateway.caller import NO_KEY, Caller, CallerIn
from coordinator.gateway.created_assistants import as_uuid
from coordinator.gateway.middleware.refusal import refuse
from coordinator.gateway.protocol.commands import Commands
from coordinator.gateway.protocol.socket import EventSocket
from coordinator.gateway.protocol.stream import EventStream
from coordinator.gateway.protocol.thread_events import ThreadEvents
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, IdempotencyKeyIn, ThreadIn
from coordinator.gateway.routes.threads import existing_row
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire.json import TolerantJsonResponse
from coordinator.gateway.wire.protocol import Command, CommandResult, EventStreamRequest
from stores.json_values import JsonObject

router = router_of("threads")

STREAMED: dict[int | str, JsonObject] = {
    200: {
        "description": "Server-sent events: `event` is the method, `id` the `seq`, `data` the event",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post(
    "/threads/{thread_id}/commands",
    dependencies=READER,
    response_model=CommandResult,
    response_model_exclude_unset=True,
)
async def command(
    services: ServicesIn,
    caller: CallerIn,
    thread_id: ThreadIn,
    body: Command,
    idempotency_key: IdempotencyKeyIn = None,
) -> Response:
    """One command: `run.start` starts a run, `input.respond` answers interrupts of a paused run,
    `agent.getTree` returns the graphs of a run. What is invalid is answered with an error of the protocol."""
    commands = Commands(services, caller, str(thread_id), idempotency_key=idempotency_key)
    return TolerantJsonResponse(await commands.handle(body))


@router.post(
    "/threads/{thread_id}/stream/events", dependencies=READER, response_class=Response, responses=STREAMED
)
async def stream_events(
    services: ServicesIn, caller: CallerIn, thread_id: ThreadIn, body: EventStreamRequest
) -> Response:
    """Stream the events of all runs of the thread behind the place `since`, without it from the oldest that
    is kept, until the client closes the stream or the thread is deleted."""
    await existing_row(services, caller, str(thread_id), with_values=False)
    with services.watchers.reserve(caller.user_id) as slot:
        events = ThreadEvents(
            services.manager,
            str(thread_id),
            body.subscription,
            user_id=caller.user_id,
            since=body.since,
        )
        return EventStream(events, slot, heartbeat=services.settings.heartbeat)


class EventSockets:
    """The same as a WebSocket, with commands, until the client closes it. The thread may be one that a
    command will create: another user's thread looks like that.

    An app and not a function: Starlette would wrap a function, for 3 KiB of each socket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = cast("Services", scope["app"].state.services)
        caller: Caller | None = scope.get("state", {}).get("caller")
        scope["route"] = EVENT_SOCKETS  # as FastAPI's routes do, for the metrics
        try:
            if caller is None:
                raise HTTPException(401, NO_KEY)
            thread_id = _uuid(scope["path_params"]["thread_id"])
            with services.watchers.reserve(caller.user_id) as slot:
                slot.attached = True
        except HTTPException as error:
            await refuse(errors.error_response(error.status_code, error.detail), scope, receive, send)
            return
        except CoordinatorError as error:
            await refuse(errors.response_to(error), scope, receive, send)
            return
        with services.watchers.using(slot):
            socket = WebSocket(scope, receive, send)
            await socket.accept()
            await EventSocket(socket, services, caller, thread_id).serve(slot)


def _uuid(text: str) -> str:
    if (known := as_uuid(text)) is None:
        raise HTTPException(422, "thread_id must be a UUID")
    return known


EVENT_SOCKETS = WebSocketRoute("/threads/{thread_id}/stream/events", EventSockets())
router.routes.append(EVENT_SOCKETS)
