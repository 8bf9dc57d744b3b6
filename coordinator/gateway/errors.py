"""Maps every exception to a response: its status, `{"detail": …}` and headers for a retry.

This is the only place that maps exceptions to statuses. Routes let the coordinator's exceptions pass, and
raise HTTPException for errors that only HTTP has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from coordinator import errors
from coordinator.gateway.unserved import refusal_of
from stores.json_values import JsonMapping, JsonObject

logger = logging.getLogger(__name__)

RETRY_AFTER = 1
"""Seconds after which a client retries a request that was refused because a limit was reached or the store
was unavailable."""


MOST_MISTAKES = 20
LONGEST_MISTAKE, LONGEST_KEY, LONGEST_DETAIL = 300, 64, 4000
"""Characters. A response that lists mistakes has at most 64 KiB, whatever the request contains."""


class TooManyOpen(errors.CoordinatorError):
    """The worker, or one user at it, has reached the limit of open streams and long responses. The request
    had no effect."""

    def __init__(self, limit: int, user_id: str | None = None) -> None:
        self.limit, self.user_id = limit, user_id
        if user_id is None:
            reason = f"this worker has {limit} streams and long responses open (max_streams)"
        else:
            reason = (
                f"user {user_id!r} has {limit} streams and long responses open at this worker, the limit for"
                " one user (max_streams_per_user)"
            )
        super().__init__(f"{reason}: retry later or at another worker")


# The first matching class counts: subclasses precede their bases.
STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.InvalidArgument, 422),
    (errors.IdempotencyConflict, 409),
    (errors.ConflictError, 409),
    (errors.ParentEnded, 409),
    (errors.QueueFull, 429),
    (errors.TooManyCrons, 429),
    (TooManyOpen, 429),
    (errors.ThreadNotFound, 404),
    (errors.RunNotFound, 404),
    (errors.CronNotFound, 404),
    (errors.CronFired, 409),
    (errors.AssistantNotFound, 404),
    (errors.AssistantExists, 409),
    (errors.SearchTooLong, 422),
    (errors.NotSettled, 504),
    (errors.Draining, 503),
    (errors.LeaseLost, 503),
    (errors.EpochDead, 503),
    (errors.StoreRefused, 503),
    (errors.StoreError, 503),
)


def error_response(
    status: int, detail: object, headers: Mapping[str, str] | None = None, **fields: object
) -> Response:
    """Returns a response with `detail`, which is text, and `fields`."""
    if isinstance(detail, str):
        detail = _shorten(detail, LONGEST_DETAIL)
    return JSONResponse({"detail": detail, **fields}, status_code=status, headers=headers)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def response_to(error: errors.CoordinatorError) -> Response:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else None
    if isinstance(error, errors.ConflictError) and error.active_run_id is not None:
        return error_response(status, str(error), headers, run_id=error.active_run_id)
    return error_response(status, str(error), headers)


async def _coordinator_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, errors.CoordinatorError)  # noqa: S101 - the handler is registered for this class
    return response_to(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for this class
    path_exists = error.status_code == 405
    if path_exists or (
        error.status_code == 404 and request.scope.get("endpoint") is None
    ):  # no route matched
        status, text = refusal_of(request.scope, path_exists=path_exists)
        return error_response(status, text, _allowing(request) if status == 405 else None)
    return error_response(error.status_code, error.detail, error.headers)


def _allowing(request: Request) -> dict[str, str]:
    """Names the methods of all routes with this path. Starlette names those of the first one."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
    return {"Allow": ", ".join(sorted(methods))}


async def _invalid_request(request: Request, error: Exception) -> Response:
    """Lists the first `MOST_MISTAKES` mistakes, without the values: these may be large, secret or no JSON.
    `detail` is the same as text, because clients show only a text."""
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the handler is registered for this class
    mistakes = error.errors()
    shown: list[JsonObject] = [
        {
            "type": mistake["type"],
            "loc": [
                _shorten(part, LONGEST_KEY) if isinstance(part, str) else part for part in mistake["loc"]
            ],
            "msg": _shorten(_message(mistake), LONGEST_MISTAKE),
        }
        for mistake in mistakes[:MOST_MISTAKES]
    ]
    if (omitted := len(mistakes) - MOST_MISTAKES) > 0:
        shown.append({"type": "more", "loc": [], "msg": f"{omitted} more mistakes are not listed"})
    return error_response(422, "; ".join(map(_text_of, shown)), mistakes=shown)


def _text_of(mistake: JsonObject) -> str:
    """Returns the field with the message: `metadata.colour: Input should be a valid string`. Parts of the
    place that name a type, one of several that the field may have, are left out."""
    place = [str(part) for part in mistake["loc"] if "[" not in str(part)]
    names = place[1:] if mistake["type"] != "json_invalid" else []
    where = ".".join(names or place[:1])
    return f"{where}: {mistake['msg']}" if where else mistake["msg"]


def _message(mistake: JsonMapping) -> str:
    """Adds the parser's message for a body that is not JSON, which FastAPI puts into the context."""
    cause = mistake.get("ctx", {}).get("error") if mistake["type"] == "json_invalid" else None
    return mistake["msg"] if cause is None or str(cause) in mistake["msg"] else f"{mistake['msg']}: {cause}"


async def _unexpected_error(request: Request, error: Exception) -> Response:
    logger.error("%s %r failed", request.method, request.url.path, exc_info=error)
    return error_response(500, "internal error: see the log of this worker under the response's x-request-id")


def install(app: FastAPI) -> None:
    """Registers the handlers of all exceptions."""
    app.add_exception_handler(errors.CoordinatorError, _coordinator_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Exception, _unexpected_error)
