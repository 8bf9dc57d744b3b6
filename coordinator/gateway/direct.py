"""The direct way to the endpoints of frequent routes.

FastAPI takes 0.3 ms for a request before it calls the endpoint: it tries the routes one after another and
solves the dependencies. `DirectRoutes` finds the route by the segments of the path, and calls the same
endpoint with the same arguments, validated by the same types. It serves only requests that are valid and
plain. All others are passed on to FastAPI as if they had not been read, so that each error has one origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from inspect import signature
from typing import Annotated, Any, TypeAlias, cast, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.params import Depends, Header, Param, Path, Query
from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.gateway import services
from coordinator.gateway.caller import Caller, Role, at_least, caller
from coordinator.gateway.lazy import LazyModel, LazyRoute
from coordinator.gateway.wire import weight
from coordinator.gateway.wire.json import Json, parsed

_JSON = (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
_CONTENT_TYPE = b"content-type"
_ROUTED = ("route", "endpoint", "path_params")
"""What the router enters into the scope. Handlers of errors and metrics read it."""

_Value: TypeAlias = Any
"""Any: an argument of an endpoint or a default; the annotation of the endpoint has its type."""
_Hint: TypeAlias = Any
"""Any: an annotation, which may be any object."""
_Values = dict[str, _Value]
_Source = Callable[["_Plain"], _Value]


class _Indirect(Exception):
    """The request is invalid or not plain: FastAPI serves it."""


class DirectRoutes:
    """Serves plain requests of `routes` by their endpoints, and all other requests by `fastapi`."""

    def __init__(self, fastapi: ASGIApp, routes: Iterable[LazyRoute]) -> None:
        self._fastapi = fastapi
        self._routes: dict[tuple[str, int], list[_Route]] = {}
        for route in map(_Route, routes):
            for method in route.methods:
                self._routes.setdefault((method, len(route.segments)), []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        segments = _segments(scope)
        route = self._find(scope, segments)
        if route is None:
            await self._fastapi(scope, receive, send)
            return
        request = _Plain(scope, receive, segments)
        unrouted = {key: scope[key] for key in _ROUTED if key in scope}
        scope.update(route.scope_of(unrouted, segments))
        try:
            arguments = await route.arguments(request)
        except (_Indirect, ValueError):
            for key in _ROUTED:
                scope.pop(key, None)
            scope.update(unrouted)
            await self._fastapi(scope, request.receive_again, send)
            return
        response: Response = await route.endpoint(**arguments)
        del request, arguments  # a stream does not need the body, and may be open for hours
        await response(scope, receive, send)

    def _find(self, scope: Scope, segments: Sequence[str]) -> _Route | None:
        if scope["type"] != "http" or "fastapi.telemetry" in scope:
            return None
        for route in self._routes.get((scope["method"], len(segments)), ()):
            if route.matches(segments):
                return route
        return None


def _segments(scope: Scope) -> list[str]:
    path: str = scope.get("path", "")
    mounted_at: str = scope.get("root_path", "")
    if mounted_at and path.startswith(f"{mounted_at}/"):
        path = path[len(mounted_at) :]
    return path.split("/")


class _Plain:
    """A request, and what was received of it."""

    def __init__(self, scope: Scope, receive: Receive, segments: Sequence[str]) -> None:
        self.scope, self.receive, self.segments = scope, receive, segments
        self.query: dict[str, list[str]] = {}
        self.headers: dict[bytes, str] = {}
        self.body: Json = None
        self._received: list[Message] = []

    def parse_query(self, known: frozenset[str]) -> None:
        """Raises _Indirect for an unknown parameter."""
        for name, value in parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name not in known:
                raise _Indirect
            self.query.setdefault(name, []).append(value)

    def find_headers(self, names: frozenset[bytes]) -> None:
        """Raises _Indirect for a header with several values."""
        for name, value in self.scope["headers"]:
            if name in names:
                if name in self.headers:
                    raise _Indirect
                self.headers[name] = value.decode("latin-1")

    async def read(self) -> None:
        """Reads and parses the body. Raises _Indirect, ValueError."""
        parts: list[bytes] = []
        more = True
        while more:
            message = await self.receive()
            self._received.append(message)
            if message["type"] != "http.request":
                raise _Indirect
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if weight.at_most(body) > weight.MAX_VALUES:  # a thread has to count them
            raise _Indirect
        self.body = parsed(body)

    async def receive_again(self) -> Message:
        """Returns what was received, then what follows."""
        return self._received.pop(0) if self._received else await self.receive()


class _Route:
    """A route of FastAPI, and how the arguments of its endpoint are found."""

    def __init__(self, route: LazyRoute) -> None:
        self._route, self.endpoint, self.methods = route, route.endpoint, route.methods
        self.segments = route.path.split("/")
        self._fixed = [(index, text) for index, text in enumerate(self.segments) if not text.startswith("{")]
        self._parameters = {
            text[1:-1]: index for index, text in enumerate(self.segments) if text.startswith("{")
        }

    def matches(self, segments: Sequence[str]) -> bool:
        return all(segments[1:]) and all(segments[index] == text for index, text in self._fixed)

    def scope_of(self, unrouted: Scope, segments: Sequence[str]) -> Scope:
        """Returns what FastAPI's router enters into the scope of a request for this route."""
        parameters = {name: segments[index] for name, index in self._parameters.items()}
        parameters = {**unrouted.get("path_params", {}), **parameters}
        return {"route": self._route, "endpoint": self.endpoint, "path_params": parameters}

    @cached_property
    def _calls(self) -> tuple[_Call, tuple[_Call, ...], Role]:
        """The endpoint, the dependencies without a value, and the role. Built at the first request."""
        roles = {at_least(role): role for role in Role}
        dependencies = [
            cast("Callable[..., _Value]", depends.dependency) for depends in self._route.dependencies
        ]
        role = max((roles[each] for each in dependencies if each in roles), default=Role.reader)
        others = tuple(_Call(each, self._parameters) for each in dependencies if each not in roles)
        return _Call(self.endpoint, self._parameters), others, role

    @cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[bytes], bool]:
        """The known parameters of the query, the headers that are read, and whether the body is."""
        endpoint = self._calls[0]
        headers = endpoint.headers | ({_CONTENT_TYPE} if endpoint.reads_body else set[bytes]())
        return frozenset(endpoint.queries), frozenset(headers), endpoint.reads_body

    async def arguments(self, request: _Plain) -> _Values:
        """Returns the arguments of the endpoint, as FastAPI does. Raises _Indirect, ValueError, and what
        receiving and the dependencies raise."""
        endpoint, dependencies, role = self._calls
        if (authenticated := _caller(request)) is None or authenticated.role < role:
            raise _Indirect
        queries, headers, reads_body = self._names
        if request.scope["query_string"]:
            request.parse_query(queries)
        if headers:
            request.find_headers(headers)
        if reads_body:
            if request.headers.get(_CONTENT_TYPE, "").encode() not in _JSON:
                raise _Indirect
            await request.read()
        for dependency in dependencies:
            await dependency(request)
        return await endpoint.arguments(request)


class _Call:
    """An endpoint or a dependency, and how its arguments are found. Raises TypeError for an argument that
    only FastAPI can find."""

    def __init__(self, function: Callable[..., _Value], parameters: dict[str, int]) -> None:
        self._function = function
        self._sources: list[tuple[str, _Source]] = []
        self._dependencies: list[tuple[str, _Call]] = []
        self.queries, self.headers, self.reads_body = set[str](), set[bytes](), False
        hints = get_type_hints(function, include_extras=True)
        for name, parameter in signature(function).parameters.items():
            hint = hints[name]
            kind = _kind(hint)
            if isinstance(kind, Depends) and kind.dependency not in (services.services, caller):
                dependency = _Call(cast("Callable[..., _Value]", kind.dependency), parameters)
                self._dependencies.append((name, dependency))
                self.queries |= dependency.queries
                self.headers |= dependency.headers
            else:
                self._sources.append((name, self._source(name, hint, kind, parameter.default, parameters)))

    def _source(
        self, name: str, hint: _Hint, kind: _Hint, default: _Value, parameters: dict[str, int]
    ) -> _Source:
        if isinstance(kind, Depends):
            return _services if kind.dependency is services.services else _caller
        if kind is Request:
            return lambda request: Request(request.scope, request.receive)
        if isinstance(kind, type) and issubclass(kind, LazyModel):
            kind.build()
            self.reads_body = True
            return lambda request: kind.model_validate(request.body)
        validate = TypeAdapter[_Value](hint).validate_python
        if isinstance(kind, Path):
            index = parameters[kind.alias or name]
            return lambda request: validate(request.segments[index])
        if isinstance(kind, Query):
            self.queries.add(kind.alias or name)
            return _from_query(validate, kind.alias or name, default, several=_is_list(hint))
        if isinstance(kind, Header):
            header = (kind.alias or name.replace("_", "-")).encode()
            self.headers.add(header)
            return lambda request: (
                default if (text := request.headers.get(header)) is None else validate(text)
            )
        raise TypeError(f"only FastAPI can find the argument {name}: {hint}")

    async def __call__(self, request: _Plain) -> _Value:
        return await self._function(**await self.arguments(request))

    async def arguments(self, request: _Plain) -> _Values:
        values = {name: source(request) for name, source in self._sources}
        for name, dependency in self._dependencies:
            values[name] = await dependency(request)
        return values


def _kind(hint: _Hint) -> _Hint:
    """Returns FastAPI's part of an annotation; the annotation itself if it has none."""
    of_fastapi = [part for part in get_args(hint)[1:] if isinstance(part, (Depends, Param))]
    return of_fastapi[-1] if get_origin(hint) is Annotated and of_fastapi else hint


def _services(request: _Plain) -> services.Services:
    return request.scope["app"].state.services


def _caller(request: _Plain) -> Caller | None:
    return request.scope.get("state", {}).get("caller")


def _is_list(hint: _Hint) -> bool:
    """Returns whether a parameter of this type may be repeated: `Annotated[list[X] | None, …]`."""
    kind = get_args(hint)[0]
    return list in (get_origin(kind), *map(get_origin, get_args(kind)))


def _from_query(
    validate: Callable[[_Value], _Value], name: str, default: _Value, *, several: bool
) -> _Source:
    def value(request: _Plain) -> _Value:
        texts = request.query.get(name)
        if texts is None:
            return list(cast("list[_Value]", default)) if isinstance(default, list) else default
        if several:
            return validate(texts)
        if len(texts) > 1:
            raise _Indirect
        return validate(texts[0])

    return value
