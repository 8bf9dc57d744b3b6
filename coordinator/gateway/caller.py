"""The caller of a request: its user, its role and its key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Annotated, Protocol

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader
from starlette.types import Scope

from coordinator.langgraph.access import Identity
from coordinator.schemas import User
from stores.json_values import Json


class Role(IntEnum):
    """Ordered: each role includes the permissions of the roles before it."""

    reader = 1
    user = 2
    admin = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity of a request. Every read and write is scoped to `user_id`; None = system scope, which
    includes the threads of all users."""

    user_id: str | None
    role: Role
    key_id: str | None = None
    """Public id of the API key, for logs and limits; not a secret."""
    permissions: tuple[str, ...] = ()
    attributes: Mapping[str, Json] = field(default_factory=dict[str, Json], hash=False)
    """Passed with `permissions` to the assistant, in `ctx.user`, and kept with runs and crons."""
    identity: Identity | None = field(default=None, compare=False, repr=False)
    """Given by the functions of a configuration, which then authorise each request. None = there are none."""
    configurable: Mapping[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)
    """Headers of the request that runs get in `config.configurable`."""

    @property
    def user(self) -> User | None:
        """The user for assistants; None in system scope."""
        return None if self.user_id is None else User(self.user_id, self.permissions, self.attributes)

    @property
    def actor(self) -> str | None:
        """The actor in the history of runs that the caller cancels. None = the gateway runs without keys."""
        if self.user_id is not None or self.key_id is None:
            return self.user_id
        return f"key {self.key_id}"

    @property
    def sees_all_users(self) -> bool:
        """Whether the caller may read about the whole deployment, including other users."""
        return self.user_id is None


NO_KEY = "no valid API key: send one in the header x-api-key"

UNAUTHENTICATED = Caller(None, Role.admin)
"""The caller of every request if the gateway runs without keys, which is possible on loopback only."""


def quota_key(caller: Caller | None, scope: Scope) -> str:
    """Returns the key under which a request counts against limits. It is the user, for all of its API keys
    together: another key must not raise the limit. For system keys it is the key, without keys the
    address."""
    if caller is not None and caller.user_id is not None:
        return f"user {caller.user_id}"
    if caller is not None and caller.key_id is not None:
        return f"key {caller.key_id}"
    client = scope.get("client")
    return f"address {client[0] if client else ''}"


class Authenticate(Protocol):
    """Identifies the caller of a request. None = unknown, which is refused with 401."""

    def __call__(self, request: Request) -> Awaitable[Caller | None]: ...


async def trust_all(request: Request) -> Caller | None:
    """An `Authenticate` for gateways without keys."""
    del request
    return UNAUTHENTICATED


_header = APIKeyHeader(name="x-api-key", auto_error=False, description="or `Authorization: Bearer`")


async def caller(request: Request) -> Caller:
    """Returns the caller that `middleware.authentication` has stored in the request. Raises HTTPException
    (401) if that middleware is missing."""
    authenticated: Caller | None = getattr(request.state, "caller", None)
    if authenticated is None:
        raise HTTPException(401, NO_KEY, {"WWW-Authenticate": "Bearer"})
    return authenticated


CallerIn = Annotated[Caller, Depends(caller)]


@cache
def at_least(role: Role) -> Callable[[Request, str | None], Awaitable[None]]:
    """A dependency for routers and routes, one for each role. Raises HTTPException (403) for a caller with a
    lower role."""

    # Without CallerIn: FastAPI would resolve it and its dependencies again for each request, for 15 us each.
    async def check(request: Request, _documented: Annotated[str | None, Security(_header)]) -> None:
        authenticated = await caller(request)
        if authenticated.role < role:
            raise HTTPException(
                403, f"this needs a key with the role {role.name}, yours is {authenticated.role.name}"
            )

    return check


async def check_sees_all_users(caller: CallerIn) -> None:
    """A dependency of routes about the whole deployment. Raises HTTPException (403) for a key of one user."""
    if not caller.sees_all_users:
        raise HTTPException(403, "this needs a key that is not for one user")
