"""The key `auth`: authentication and authorisation by a `langgraph_sdk.Auth` object of the user.

Everything that is not an explicit permission refuses the request: an exception, an unusable result, a filter
that cannot be enforced, and a function that takes too long.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar, cast, get_args

from langgraph_sdk import Auth

from coordinator import arguments as check
from coordinator.assistants.bounded import bounded
from coordinator.errors import InvalidArgument
from coordinator.langgraph.access import PARAMETERS, Filter, Identity, Refused, UnusableFilter
from coordinator.langgraph.runtime import AuthenticatedUser
from coordinator.schemas import Json, User
from stores.json_values import JsonObject

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ACTIONS: dict[str, frozenset[str]] = {
    "threads": frozenset({"create", "create_run", "delete", "read", "search", "update"}),
    "assistants": frozenset({"create", "delete", "read", "search", "update"}),
    "crons": frozenset({"create", "delete", "read", "search", "update"}),
    "store": frozenset({"delete", "get", "list_namespaces", "put", "search"}),
}
"""For which resources and actions functions may be registered. Runs belong to their threads."""
_ANY = "*"
_MAX_THREADS = 16
"""Threads for a function that is not async. If all of them hang, requests are refused."""
_FAILED = "the request could not be authorised: see the log of this worker"
_RESERVED = ("identity", "permissions", "is_authenticated")

_Handler = Callable[..., Awaitable[object]]


class HandlerUser(AuthenticatedUser):
    """`ctx.user` of the functions: the fields of the user, and the attributes of the object that the function
    `authenticate` has returned."""

    def __init__(self, user: User, given: object) -> None:
        super().__init__(user)
        self._given = given

    def __getattr__(self, name: str) -> Json:
        fields: Mapping[str, Json] = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        given = self.__dict__.get("_given")
        if name.startswith("_") or given is None or isinstance(given, (str, Mapping)):
            raise AttributeError(name)
        return getattr(given, name)


class AuthHandlers:
    """The functions of an `Auth` object, see `coordinator.langgraph.access.Handlers`. `timeout` (s)
    bounds each call of a function."""

    def __init__(self, auth: object, field: str, timeout: float) -> None:
        """Raises InvalidArgument for `field` if the object is none, or if a function of it would never be
        called or could not be called: without it the server would permit what it refuses."""
        if not isinstance(auth, Auth):
            raise InvalidArgument(field, f"is of type {type(auth).__name__}, not a langgraph_sdk.Auth object")
        # Names that langgraph_sdk promises to servers.
        authenticate = cast("_Handler | None", auth._authenticate_handler)  # pyright: ignore[reportPrivateUsage]
        if authenticate is None:
            raise InvalidArgument(
                field, "has no function with @auth.authenticate: no caller could be identified"
            )
        self._authenticate, self._timeout = authenticate, timeout
        self._handlers = {key: cast("_Handler", registered[-1]) for key, registered in auth._handlers.items()}  # pyright: ignore[reportPrivateUsage]
        if auth._global_handlers:  # pyright: ignore[reportPrivateUsage]
            self._handlers.setdefault((_ANY, _ANY), cast("_Handler", auth._global_handlers[-1]))  # pyright: ignore[reportPrivateUsage]
        self.parameters = _parameters_of(authenticate, field)
        _check_reachable(self._handlers, field)
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="authenticate")

    async def identify(self, arguments: Mapping[str, object]) -> Identity:
        """Raises Refused."""
        given = await self._decision("authenticate", self._call(arguments))
        try:
            return _identity_of(given)
        except (InvalidArgument, TypeError, ValueError) as error:
            logger.error("The function authenticate has returned no usable user: %s", error)  # noqa: TRY400 - no fault of ours
            raise Refused(500, _FAILED) from error

    async def permit(self, identity: Identity, resource: str, action: str, value: JsonObject) -> Filter:
        """Raises Refused."""
        handler = self._handler(resource, action)
        if handler is None:
            return Filter()
        make = cast("Callable[..., object]", Auth.types.AuthContext)  # its types are literals
        context = make(list(identity.permissions), identity.user, resource, action)
        name = f"for {resource}.{action}"
        given = await self._decision(name, _awaited(handler(ctx=context, value=value)))
        if given is None or given is True:
            return Filter()
        if given is False:
            raise Refused(403, "Forbidden")
        try:
            if not isinstance(given, Mapping):
                raise UnusableFilter(
                    f"it must be a filter, None or a truth value, not {type(given).__name__}"
                )
            return Filter.of(cast("Mapping[str, object]", given))
        except UnusableFilter as error:
            logger.error(  # noqa: TRY400 - no fault of ours
                "The result of the function %s cannot be enforced, so the request was refused: %s",
                name,
                error,
            )
            raise Refused(500, _FAILED) from error

    def _handler(self, resource: str, action: str) -> _Handler | None:
        """Returns the most specific function."""
        for key in ((resource, action), (resource, _ANY), (_ANY, action), (_ANY, _ANY)):
            if key in self._handlers:
                return self._handlers[key]
        return None

    async def _call(self, arguments: Mapping[str, object]) -> object:
        if inspect.iscoroutinefunction(self._authenticate):
            return await self._authenticate(**arguments)
        called = partial(copy_context().run, self._authenticate, **arguments)
        given = await asyncio.get_running_loop().run_in_executor(self._threads, called)
        return await given if inspect.isawaitable(given) else given

    async def _decision(self, name: str, call: Coroutine[object, object, T]) -> T:
        """Awaits the user's function and maps what it raises. A function that blocks the event loop cannot be
        interrupted; its result is then refused."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            given = await bounded(call, self._timeout, f"the function {name}")
        except TimeoutError:
            if now() - began < self._timeout:
                raise _failure(name, "TimeoutError") from None
        except Exception as error:
            raise _refusal_of(name, error) from error
        else:
            if now() - began <= self._timeout:
                return given
        logger.error(
            "The function %s took longer than %g s (auth.timeout), so the request was refused",
            name,
            self._timeout,
        )
        raise Refused(503, "the request was not authorised in time", {"Retry-After": "1"})


async def _awaited(result: Awaitable[T]) -> T:
    return await result


def _failure(name: str, why: str, error: BaseException | None = None) -> Refused:
    logger.error("The function %s has failed, so the request was refused: %s", name, why, exc_info=error)
    return Refused(500, _FAILED)


def _refusal_of(name: str, error: Exception) -> Refused:
    """`HTTPException` of langgraph_sdk, Starlette and FastAPI passes through. An assertion refuses with 403
    in functions that authorise, as in LangGraph's server."""
    status: object = getattr(error, "status_code", None)
    detail: object = getattr(error, "detail", None)
    if isinstance(status, int) and 400 <= status < 600:
        headers = cast("Mapping[str, str] | None", getattr(error, "headers", None))
        return Refused(status, _plain(detail), headers)
    if isinstance(error, AssertionError) and name != "authenticate":
        return Refused(403, str(error) or "Forbidden")
    return _failure(name, type(error).__name__, error)


def _plain(detail: object) -> object:
    return cast("object", detail) if isinstance(detail, (str, dict, list)) else str(detail)


def _parameters_of(authenticate: _Handler, field: str) -> frozenset[str]:
    """Raises InvalidArgument."""
    taken: set[str] = set()
    for name, parameter in inspect.signature(authenticate).parameters.items():
        solved = [parameter.default, *get_args(parameter.annotation)]
        if any(type(one).__name__ == "Depends" for one in solved):
            raise InvalidArgument(field, f"authenticate: FastAPI's Depends ({name}) is not supported here")
        if name in PARAMETERS:
            taken.add(name)
        elif name == "body":
            raise InvalidArgument(
                field, "authenticate: body is not available, because callers are identified before it is read"
            )
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise InvalidArgument(
                field, f"authenticate: the parameter {name!r} is none of {', '.join(sorted(PARAMETERS))}"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidArgument(field, f"authenticate: {name!r} must not be positional-only")
    return frozenset(taken)


def _check_reachable(handlers: Mapping[tuple[str, str], _Handler], field: str) -> None:
    """Raises InvalidArgument for a function that no request would call."""
    every = frozenset[str]().union(*_ACTIONS.values())
    for resource, action in handlers:
        known = every if resource == _ANY else _ACTIONS.get(resource)
        if known is None or (action != _ANY and action not in known):
            raise InvalidArgument(
                field,
                f"no request would call the function for {resource}.{action}; there are"
                f" {', '.join(f'{name}.{one}' for name in _ACTIONS for one in sorted(_ACTIONS[name]))}."
                " Runs are threads.create_run, and otherwise as their threads",
            )


# -- users


def _identity_of(given: object) -> Identity:
    """Accepts an id, a mapping with `identity`, an object with `identity`, and a pair of permissions and one
    of these. Raises InvalidArgument, ValueError, TypeError."""
    permissions: object = None
    user: object = given
    if isinstance(given, tuple):
        permissions, user = cast("tuple[object, object]", given)
    fields: JsonObject = {}
    if isinstance(user, str):
        fields["identity"] = user
    elif isinstance(user, Mapping):
        fields |= cast("Mapping[str, Json]", user)
    else:
        fields |= _fields_of(user)
        for name in _RESERVED:
            if hasattr(user, name):
                fields[name] = getattr(user, name)
    if fields.get("is_authenticated") is False:
        raise Refused(401, "Unauthorized")
    if permissions is None:
        permissions = fields.get("permissions")
    attributes = {name: value for name, value in fields.items() if name not in _RESERVED}
    user_id = check.check_id("identity", fields.get("identity"))
    described = User(user_id, _texts(permissions), attributes)
    return Identity(user_id, described.permissions, attributes, HandlerUser(described, cast("object", user)))


def _texts(permissions: object) -> tuple[str, ...]:
    """A single text would otherwise become permissions of one letter each."""
    if permissions is None:
        return ()
    given = [permissions] if isinstance(permissions, str) else list(cast("list[object]", permissions))
    if not all(isinstance(one, str) for one in given):
        raise TypeError("permissions must be texts")
    return tuple(cast("list[str]", given))


def _fields_of(given: object) -> JsonObject:
    """Returns the public fields of an object, by its own method if it has one."""
    for method in ("model_dump", "dict"):
        if callable(dump := getattr(given, method, None)):
            return dict(cast("Mapping[str, Json]", dump()))
    fields = dict(getattr(given, "__dict__", {}))
    return {name: value for name, value in fields.items() if not name.startswith("_")}
