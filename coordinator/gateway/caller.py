"""On whose behalf a request is made, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Protocol, cast

from fastapi import Depends, HTTPException, Request


class Role(IntEnum):
    """Ordered: each may do what the one before may."""

    reader = 1
    user = 2
    admin = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """`user_id` None = system scope: everybody's threads. Every read and write is scoped to it."""

    user_id: str | None
    role: Role


ANYBODY = Caller(None, Role.admin)
"""The caller where the gateway runs without keys, which it does on loopback only."""


class Authenticate(Protocol):
    """Who makes the request; None = nobody known, answered with 401."""

    def __call__(self, request: Request) -> Awaitable[Caller | None]: ...


async def trusting(request: Request) -> Caller | None:
    del request
    return ANYBODY


async def caller(request: Request) -> Caller:
    """The request's caller, asked for once. Raises 401."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is None:
        known = await cast("Authenticate", request.app.state.authenticate)(request)
        if known is None:
            raise HTTPException(401, "no valid API key: send one in the header x-api-key")
        request.state.caller = known
    return known


CallerIn = Annotated[Caller, Depends(caller)]


def at_least(role: Role) -> Callable[[CallerIn], Awaitable[None]]:
    """A dependency for routers and routes. Raises 403 for a caller with less."""

    async def check(caller: CallerIn) -> None:
        if caller.role < role:
            raise HTTPException(
                403, f"this needs a key with the role {role.name}, yours is {caller.role.name}"
            )

    return check
