"""Identifies callers by the user's function, see `coordinator.langgraph.auth`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from starlette.authentication import AuthCredentials
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from coordinator.gateway.caller import Caller, Role
from coordinator.langgraph.access import Handlers, Refused

Routes = Callable[[], Iterable[BaseRoute]]


class Identification:
    """An `Authenticate`. `routes`: for the parameters of the path, which exist before a route is found."""

    def __init__(self, handlers: Handlers, routes: Routes) -> None:
        self._handlers, self._routes = handlers, routes

    async def __call__(self, request: Request) -> Caller | None:
        """Raises HTTPException. Puts the user into the scope, where the routes of the user's app find it."""
        scope = request.scope
        if len(request.headers.getlist("authorization")) > 1:
            raise HTTPException(400, "the request has several Authorization headers")
        try:
            identity = await self._handlers.identify(self._arguments(request))
        except Refused as refused:
            raise http_error(refused) from refused
        scope["user"], scope["auth"] = identity.user, AuthCredentials(identity.permissions)
        return Caller(
            identity.user_id,
            Role.user,
            permissions=identity.permissions,
            attributes=identity.attributes,
            identity=identity,
        )

    def _arguments(self, request: Request) -> Mapping[str, object]:
        scope = request.scope
        values: Mapping[str, Callable[[], object]] = {
            "authorization": lambda: request.headers.get("authorization"),
            "headers": lambda: dict(scope["headers"]),
            "method": lambda: scope["method"],
            "path": lambda: scope["path"],
            "path_params": lambda: self._path_params(scope),
            "query_params": lambda: request.query_params,
            "request": lambda: request,
            "scope": lambda: scope,
            "scopes": list[str],
            "user": lambda: None,
        }
        return {name: values[name]() for name in self._handlers.parameters}

    def _path_params(self, scope: Scope) -> Mapping[str, object]:
        for route in self._routes():
            match, child = route.matches(scope)
            if match is Match.FULL:
                return child.get("path_params", {})
        return {}


def http_error(refused: Refused) -> HTTPException:
    """Returns the exception with any status and detail that the user's function has chosen."""
    headers = None if refused.headers is None else dict(refused.headers)
    error = HTTPException(refused.status, "", headers)
    error.detail = refused.detail  # type: ignore[assignment]  # may be an object, as in FastAPI
    return error
