"""On whose behalf a request is made, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Protocol

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader
from starlette.types import Scope


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
    key_id: str | None = None
    """Which of the user's keys it is, for logs and limits; no secret."""

    @property
    def actor(self) -> str | None:
        """Who decided, for the history of what is cancelled. None = anybody on this machine."""
        if self.user_id is not None or self.key_id is None:
            return self.user_id
        return f"key {self.key_id}"

    @property
    def sees_everybody(self) -> bool:
        """May be told of the deployment as a whole, of which other users are a part."""
        return self.user_id is None


NO_KEY = "no valid API key: send one in the header x-api-key"

ANYBODY = Caller(None, Role.admin)
"""The caller where the gateway runs without keys, which it does on loopback only."""


def payer(caller: Caller | None, scope: Scope) -> str:
    """Whose share a request is taken from. All keys of a user share: making one more must not make room.
    Without keys, and where anybody may ask, it is the address."""
    if caller is not None and caller.user_id is not None:
        return f"user {caller.user_id}"
    if caller is not None and caller.key_id is not None:
        return f"key {caller.key_id}"
    client = scope.get("client")
    return f"address {client[0] if client else ''}"


class Authenticate(Protocol):
    """Who makes the request; None = nobody known, answered with 401."""

    def __call__(self, request: Request) -> Awaitable[Caller | None]: ...


async def trusting(request: Request) -> Caller | None:
    del request
    return ANYBODY


_header = APIKeyHeader(name="x-api-key", auto_error=False, description="or `Authorization: Bearer`")


async def caller(request: Request) -> Caller:
    """The request's caller, as `middleware.authentication` found it. Raises 401 where that was left out."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is None:
        raise HTTPException(401, NO_KEY, {"WWW-Authenticate": "Bearer"})
    return known


CallerIn = Annotated[Caller, Depends(caller)]


def at_least(role: Role) -> Callable[[Request, str | None], Awaitable[None]]:
    """A dependency for routers and routes. Raises 403 for a caller with less."""

    # Not of CallerIn: FastAPI would solve that once more for each request, and what it depends on, for 15 us
    # each.
    async def check(request: Request, _documented: Annotated[str | None, Security(_header)]) -> None:
        known = await caller(request)
        if known.role < role:
            raise HTTPException(
                403, f"this needs a key with the role {role.name}, yours is {known.role.name}"
            )

    return check


async def check_sees_everybody(caller: CallerIn) -> None:
    """A dependency for what is told of the deployment as a whole. Raises 403 for a key of one user."""
    if not caller.sees_everybody:
        raise HTTPException(403, "this needs a key that is not for one user")
