"""Lets the user's functions decide about each request of a caller that they have identified.

It is inside all middleware, and outside both ways to the endpoints, the direct one and FastAPI. The body is
parsed once, by the parser of the endpoints, and encoded again: an endpoint gets what the functions have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from json import JSONDecodeError

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.errors import CoordinatorError
from coordinator.gateway import errors
from coordinator.gateway.caller import Caller
from coordinator.gateway.custom_app import CustomApp
from coordinator.gateway.middleware.refusal import refuse
from coordinator.gateway.permits import GuardedRequest, Rule
from coordinator.gateway.rules import RULES, SOCKET, identified
from coordinator.gateway.wire.json import Json, StrictRequest, encoded
from coordinator.langgraph.access import Handlers

_WITH_BODY = frozenset({"DELETE", "PATCH", "POST", "PUT"})
_LENGTH = b"content-length"


class Authorization:
    def __init__(
        self,
        app: ASGIApp,
        handlers: Handlers,
        routes: Iterable[BaseRoute],
        custom: CustomApp | None = None,
    ) -> None:
        """`routes`: those that need a caller; the functions do not decide about those of `custom`. Raises
        LookupError for a route without a rule."""
        self._app, self._handlers, self._custom = app, handlers, custom
        self._rules = [(route, _rules_of(route)) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        if caller is None or scope["type"] not in ("http", "websocket"):
            # Without a caller: a public route, or one of the user's app.
            await self._app(scope, receive, send)
            return
        elsewhere = self._custom is not None and self._custom.serves(scope)
        matched = None if elsewhere else self._find(scope)
        if matched is None or matched[0] is identified:
            await self._app(scope, receive, send)
            return
        rule, path = matched
        body = _Body(scope, receive)
        try:
            if caller.identity is None:
                raise HTTPException(403, "the caller was not identified by the functions that authorise")
            await body.read()
            request = GuardedRequest(
                self._handlers, caller.identity, HTTPConnection(scope), path, body.content
            )
            answer = await rule(request)
        except HTTPException as error:
            answer = errors.error_response(error.status_code, error.detail, error.headers)
        except CoordinatorError as error:
            answer = errors.response_to(error)
        except ClientDisconnect:
            return
        if answer is None:
            body.replace()
            await self._app(scope, body.receive_again, send)
        else:
            await refuse(answer, scope, receive, send)

    def _find(self, scope: Scope) -> tuple[Rule, dict[str, object]] | None:
        """Returns the rule of the route that the router will choose, and the parameters of the path. None: no
        route matches."""
        for route, rules in self._rules:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return rules[scope.get("method", SOCKET)], child.get("path_params", {})
        return None


def _rules_of(route: BaseRoute) -> dict[str, Rule]:
    if isinstance(route, WebSocketRoute) and (rule := RULES.get((SOCKET, route.path))) is not None:
        return {SOCKET: rule}
    if not isinstance(route, Route):
        raise LookupError(  # noqa: TRY004 - as for a route without a rule
            f"{route} is no route with a path: it cannot be authorised"
        )
    rules: dict[str, Rule] = {}
    for method in route.methods or ():
        rule = RULES.get(("GET" if method == "HEAD" else method, route.path))
        if rule is None:
            raise LookupError(f"{method} {route.path} has no rule that authorises it")
        rules[method] = rule
    return rules


class _Body:
    """The body of a request, which the app receives as the rule has left `content`."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope, self._receive = scope, receive
        self.content: Json = None
        self._raw: bytes | None = None
        self._parsed = self._sent = False

    async def read(self) -> None:
        """Raises HTTPException, ClientDisconnect."""
        if self._scope.get("method") not in _WITH_BODY:
            return
        request = StrictRequest(self._scope, self._receive)
        self._raw = await request.body()
        if not self._raw:
            return
        try:
            self.content = await request.json()
        except JSONDecodeError as error:
            raise HTTPException(422, f"the body is not JSON: {error.msg}") from None
        self._parsed = True

    def replace(self) -> None:
        if self._parsed:
            self._raw = encoded(self.content)
            length = str(len(self._raw)).encode()
            self._scope["headers"] = [
                (name, length if name == _LENGTH else value) for name, value in self._scope["headers"]
            ]

    async def receive_again(self) -> Message:
        if self._raw is None or self._sent:
            return await self._receive()
        self._sent = True
        return {"type": "http.request", "body": self._raw, "more_body": False}
