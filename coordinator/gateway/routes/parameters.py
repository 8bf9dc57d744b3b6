"""Validated parameters of paths, queries and headers."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, HTTPException, Path, Query, Request
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from coordinator.errors import InvalidArgument
from coordinator.gateway.caller import CallerIn, Role, at_least
from coordinator.gateway.wire.bodies import Action, Limit, Modes, Offset, StreamMode

READER = [Depends(at_least(Role.reader))]
USER = [Depends(at_least(Role.user))]


def acting(*query: str, role: Role = Role.user) -> list[Any]:  # Any: FastAPI has no type for Depends
    """The dependencies of a route that modifies existing data: the role, and no query parameters except
    `query`. An unknown one may be a filter, without which the route would modify more than its client
    intends."""

    async def refuse_unknown(request: Request) -> None:
        unknown = [f"{name:.64}" for name in request.query_params if name not in query]
        if unknown:
            known = ", ".join(query) or "none"
            raise InvalidArgument("query", f"unknown: {unknown[:5]}; known: {known}. Nothing was done")

    return [Depends(at_least(role)), Depends(refuse_unknown)]


ThreadIn = Annotated[UUID, Path(alias="thread_id")]
RunIn = Annotated[UUID, Path(alias="run_id")]
LimitIn = Annotated[Limit, Query()]
OffsetIn = Annotated[Offset, Query()]
WaitIn = Annotated[bool, Query(description="Respond when the run has stopped, with the thread's values")]
ActionIn = Annotated[Action, Query()]
IdempotencyKeyIn = Annotated[
    str | None,
    Header(max_length=255, description="A repeated key returns the run of the first request with it"),
]
LastEventIdIn = Annotated[
    str | None, Header(description="Resume after this event; -1 = from the start. Only for resumable runs")
]


async def cancel_on_disconnect(
    caller: CallerIn,
    cancel_on_disconnect: Annotated[
        bool, Query(description="Cancel the run when this client disconnects")
    ] = False,
) -> bool:
    """Refuses the option for callers that may only read. Raises HTTPException (403)."""
    if cancel_on_disconnect and caller.role < Role.user:
        raise HTTPException(403, "cancel_on_disconnect needs a key that may cancel")
    return cancel_on_disconnect


CancelOnDisconnectIn = Annotated[bool, Depends(cancel_on_disconnect)]

_MODES = TypeAdapter(Modes)


async def stream_modes(
    stream_mode: Annotated[
        list[str],
        Query(max_length=64, description="Repeated, or one JSON array; none = as the run was created"),
    ] = [],  # noqa: B006 - FastAPI copies it
) -> list[StreamMode]:
    """Returns the requested modes. Raises InvalidArgument."""
    modes: list[Any] = []  # Any: members of one of several enums
    for text in stream_mode:
        try:
            modes += from_json(text) if text.startswith("[") else [text] if text else []
        except ValueError as error:
            raise InvalidArgument("stream_mode", f"must be JSON: {error}") from None
    try:
        return _MODES.validate_python(modes)
    except ValidationError:
        raise InvalidArgument("stream_mode", "unknown mode") from None


StreamModesIn = Annotated[list[StreamMode], Depends(stream_modes)]
