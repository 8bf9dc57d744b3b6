"""What stands in paths, queries and headers, checked, and the headers that answers have."""

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


def acting(*query: str, role: Role = Role.user) -> list[Any]:
    """The dependencies of a route that acts on what is there: the role, and no parameter in the query but
    these. An unknown one may be a filter, without which the route would act on more than was meant."""

    async def only_known(request: Request) -> None:
        unknown = [f"{name:.64}" for name in request.query_params if name not in query]
        if unknown:
            known = ", ".join(query) or "none"
            raise InvalidArgument("query", f"unknown: {unknown[:5]}; known: {known}. Nothing was done")

    return [Depends(at_least(role)), Depends(only_known)]


ThreadIn = Annotated[UUID, Path(alias="thread_id")]
RunIn = Annotated[UUID, Path(alias="run_id")]
LimitIn = Annotated[Limit, Query()]
OffsetIn = Annotated[Offset, Query()]
WaitIn = Annotated[bool, Query(description="Answer when the run has stopped, with the thread's values")]
ActionIn = Annotated[Action, Query()]
IdempotencyKeyIn = Annotated[
    str | None,
    Header(max_length=255, description="The same key again answers the run that it was first given for"),
]
LastEventIdIn = Annotated[
    str | None, Header(description="Go on after this event; -1 = from the start. Only for resumable runs")
]


async def cancel_on_disconnect(
    caller: CallerIn,
    cancel_on_disconnect: Annotated[
        bool, Query(description="Cancel the run when this client goes away")
    ] = False,
) -> bool:
    """Reading that may cancel is no reading. Raises HTTPException (403)."""
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
    """Raises InvalidArgument."""
    given: list[Any] = []
    for text in stream_mode:
        try:
            given += from_json(text) if text.startswith("[") else [text] if text else []
        except ValueError as error:
            raise InvalidArgument("stream_mode", f"must be JSON: {error}") from None
    try:
        return _MODES.validate_python(given)
    except ValidationError:
        raise InvalidArgument("stream_mode", "unknown mode") from None


StreamModesIn = Annotated[list[StreamMode], Depends(stream_modes)]
