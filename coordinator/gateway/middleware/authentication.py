"""Requires an authenticated caller for every route, mounted app and WebSocket, except for public routes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.errors import CoordinatorError
from coordinator.gateway import errors
from coordinator.gateway.caller import NO_KEY, Authenticate, Caller
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.middleware.refusal import refuse
from coordinator.langgraph.extension import NO_HEADERS, HeaderPatterns


class Authentication:
    """Authenticates before the body is read: bodies of unknown callers are not parsed."""

    def __init__(
        self,
        app: ASGIApp,
        authenticate: Authenticate,
        public: Public,
        configurable: HeaderPatterns = NO_HEADERS,
    ) -> None:
        """`configurable`: headers that runs get."""
        self._app, self._authenticate, self._public = app, authenticate, public
        self._configurable = configurable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._public.leads_to(scope):
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._caller_of(scope)
        except HTTPException as error:
            refusal = errors.error_response(error.status_code, error.detail, error.headers)
        except CoordinatorError as error:
            refusal = errors.response_to(error)
        else:
            if caller is not None:
                state = scope.setdefault("state", {})
                state["caller"] = caller
                if scope["type"] == "websocket":
                    state["identify"] = partial(self._caller_of, scope)
                await self._app(scope, receive, send)
                return
            refusal = errors.error_response(401, NO_KEY, {"WWW-Authenticate": "Bearer"})
        await refuse(refusal, scope, receive, send)

    async def _caller_of(self, scope: Scope) -> Caller | None:
        """Called for each request, and for each command of a socket."""
        request = Request(scope if scope["type"] == "http" else {**scope, "type": "http", "method": "GET"})
        caller = await self._authenticate(request)
        if caller is not None and (headers := self._configurable.pick(scope["headers"])):
            return replace(caller, configurable=headers)
        return caller
