"""Every failure as an answer: the status, `{"detail": …}` and what else a client needs to go on.

The one place where exceptions become statuses. A route raises what the coordinator raises, or an
HTTPException where only HTTP knows the mistake.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from coordinator import errors
from coordinator.gateway.unserved import refusal_of

logger = logging.getLogger(__name__)

RETRY_AFTER = 1
"""Seconds. What was refused for want of room or of the store is taken by another worker, or in a moment."""


MOST_MISTAKES = 20
LONGEST_MISTAKE, LONGEST_KEY, LONGEST_DETAIL = 300, 64, 4000
"""Characters. An answer to mistakes has at most 64 KiB, whatever was sent."""


class TooManyOpen(errors.CoordinatorError):
    """This worker has as many streams and long answers open as it may, or as one user may. Nothing was
    done."""

    def __init__(self, limit: int, user_id: str | None = None) -> None:
        self.limit, self.user_id = limit, user_id
        if user_id is None:
            what = f"this worker has {limit} streams and long answers open (max_streams)"
        else:
            what = (
                f"user {user_id!r} has {limit} streams and long answers open at this worker, as many as one"
                " user may have (max_streams_per_user)"
            )
        super().__init__(f"{what}: try again, or elsewhere")


# The first that fits: subclasses stand before their bases.
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
    (errors.SearchTooLong, 422),
    (errors.NotSettled, 504),
    (errors.Draining, 503),
    (errors.LeaseLost, 503),
    (errors.EpochDead, 503),
    (errors.StoreRefused, 503),
    (errors.StoreError, 503),
)


def answer(status: int, detail: Any, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """`detail` is text, or for a body that does not fit its model the list of what does not."""
    if isinstance(detail, str):
        detail = _short(detail, LONGEST_DETAIL)
    return JSONResponse({"detail": detail, **more}, status_code=status, headers=headers)


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def answer_to(error: errors.CoordinatorError) -> Response:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else None
    if isinstance(error, errors.ConflictError) and error.active_run_id is not None:
        return answer(status, str(error), headers, run_id=error.active_run_id)
    return answer(status, str(error), headers)


async def _coordinator_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, errors.CoordinatorError)  # noqa: S101 - it is registered for these alone
    return answer_to(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    known_path = error.status_code == 405
    if known_path or (error.status_code == 404 and request.scope.get("endpoint") is None):  # to no route
        status, text = refusal_of(request.scope, known_path=known_path)
        return answer(status, text, error.headers if status == 405 else None)
    return answer(error.status_code, error.detail, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Without what the client sent: it may be large, secret, or no JSON at all. Of many mistakes the
    first."""
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the same
    found = error.errors()
    named: list[dict[str, Any]] = [
        {
            "type": one["type"],
            "loc": [_short(part, LONGEST_KEY) if isinstance(part, str) else part for part in one["loc"]],
            "msg": _short(_message(one), LONGEST_MISTAKE),
        }
        for one in found[:MOST_MISTAKES]
    ]
    if (left := len(found) - MOST_MISTAKES) > 0:
        named.append({"type": "more", "loc": [], "msg": f"{left} more mistakes are not named"})
    return answer(422, named)


def _message(mistake: Mapping[str, Any]) -> str:
    """With what the parser says of a body that is no JSON: FastAPI leaves it in the context."""
    cause = mistake.get("ctx", {}).get("error") if mistake["type"] == "json_invalid" else None
    return mistake["msg"] if cause is None or str(cause) in mistake["msg"] else f"{mistake['msg']}: {cause}"


async def _unforeseen(request: Request, error: Exception) -> Response:
    logger.error("%s %r failed", request.method, request.url.path, exc_info=error)
    return answer(500, "internal error: it is in the log of this worker, under the answer's x-request-id")


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.CoordinatorError, _coordinator_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unforeseen)
