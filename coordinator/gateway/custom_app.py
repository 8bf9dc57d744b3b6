"""The user's Starlette or FastAPI app beside the API: as in LangGraph's server, its routes precede those of
the API, its middleware gets every request, and its lifespan is that of the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy

from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.errors import InvalidArgument

_OURS = ("/ok", "/coordinator")
_META = ("/docs", "/metrics", "/openapi.json")
"""Paths that the app cannot replace, the second ones unless they are disabled."""
_ROUTED = ("route", "endpoint", "path_params")
"""What the router enters into the scope. Metrics read it."""
OUTSIDE = "coordinator.outside"
"""Key of the scope of a request for a path that is not below the prefix; the value is that path."""


class CustomApp:
    def __init__(
        self, app: object, *, needs_caller: bool, after_authentication: bool, replaces_meta: bool
    ) -> None:
        """`needs_caller`: its routes need a caller. `after_authentication`: its middleware gets only requests
        that were authenticated. `replaces_meta`: documentation and metrics of the API are disabled. Raises
        InvalidArgument."""
        if not isinstance(app, Starlette):
            raise InvalidArgument(
                "http.app", f"is of type {type(app).__name__}, not a Starlette or FastAPI application"
            )
        self.needs_caller, self.after_authentication = needs_caller, after_authentication
        self._app, self._middleware = app, tuple(app.user_middleware)
        self._routes = copy(app)
        self._routes.user_middleware, self._routes.middleware_stack = [], None
        self._ours = _OURS if replaces_meta else (*_OURS, *_META)
        self._state: dict[str, object] = {}

    def serves(self, scope: Scope) -> bool:
        """Returns whether a route of the app matches the request."""
        if scope["type"] not in ("http", "websocket") or OUTSIDE in scope:
            return False
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if any(path == ours or path.startswith(f"{ours}/") for ours in self._ours):
            return False
        return any(route.matches(scope)[0] is Match.FULL for route in self._app.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request for a route of the app, without its middleware."""
        scope.setdefault("state", {}).update(self._state)
        await self._routes(scope, receive, send)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Returns `app` within the middleware of the user's app, whose requests name that app."""

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            # A copy: the middleware may use its scope while the response is sent.
            own = {**scope, "app": scope["coordinator.app"]}
            try:
                await app(own, receive, send)
            finally:
                scope.update({key: own[key] for key in _ROUTED if key in own})

        stack: ASGIApp = inner
        for cls, arguments, options in reversed(self._middleware):
            stack = cls(stack, *arguments, **options)

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            scope["coordinator.app"], scope["app"] = scope["app"], self._app
            scope.setdefault("state", {}).update(self._state)
            await stack(scope, receive, send)

        return outer

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with self._app.router.lifespan_context(self._app) as state:
            self._state = dict(state or {})
            yield


class CustomMiddleware:
    """The middleware of the user's app, as middleware of a gateway."""

    def __init__(self, app: ASGIApp, custom: CustomApp) -> None:
        self._app = custom.around(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class CustomRoutes:
    """Serves the routes of the user's app, and all other requests by `app`."""

    def __init__(self, app: ASGIApp, custom: CustomApp) -> None:
        self._app, self._custom = app, custom

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._custom if self._custom.serves(scope) else self._app)(scope, receive, send)


class Prefixed:
    """Serves all paths below `prefix`; of the other paths only probes and metrics."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            root: str = scope.get("root_path", "")
            path: str = scope["path"].removeprefix(root)
            if path.startswith(f"{self._prefix}/"):
                scope["root_path"] = f"{root}{self._prefix}"
            elif path not in ("/ok", "/metrics", "/coordinator/health/live", "/coordinator/health/ready"):
                scope[OUTSIDE] = path
                scope["path"] = f"{root}/"  # which no route of the API has
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)
