"""Whether the functions of a configuration permit a command that came over a socket."""

from __future__ import annotations

from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from coordinator.gateway.caller import Caller
from coordinator.gateway.permits import GuardedRequest
from coordinator.gateway.rules import RULES
from coordinator.gateway.services import Services
from stores.json_values import JsonObject

_COMMAND = "POST", "/threads/{thread_id}/commands"


async def permitted(
    connection: HTTPConnection, caller: Caller, thread_id: str, command: JsonObject
) -> JsonObject:
    """Returns the command as the functions have left it, by the rule of the route. Raises HTTPException, and
    CoordinatorError."""
    services = cast("Services", connection.app.state.services)
    handlers = services.extension.handlers
    if handlers is None:
        return command
    if caller.identity is None:
        raise HTTPException(403, "the caller was not identified by the functions that authorise")
    path = {"thread_id": thread_id}
    request = GuardedRequest(handlers, caller.identity, connection, path, command)
    if await RULES[_COMMAND](request) is not None:
        raise HTTPException(403, "the command is not permitted")
    return request.fields
