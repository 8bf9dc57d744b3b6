"""JSON at the edge: strict where it comes in, tolerant where it goes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from coordinator.gateway.lazy import LazyRoute

Json = Any

_SURROGATE = re.compile(
    r"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}",
    re.IGNORECASE,
)
"""In JSON of ASCII: half a character. Also finds `\\\\ud800`, which is none: the text is then looked at."""


_HUGE = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{309}")
"""What every number has that is too large to be finite."""


class _StrictRequest(Request):
    async def json(self) -> Json:
        """Refuses what databases and other parsers refuse: invalid UTF-8, half characters, numbers that are
        not finite, great depth."""
        body = await self.body()
        try:
            content = pydantic_core.from_json(body, allow_inf_nan=False)
            if _HUGE.search(body) is not None:
                json.dumps(content, allow_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None
        return content


class StrictRoute(LazyRoute):
    """Every router of the API is made of these: `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def encoded(content: Json) -> bytes:
    """UTF-8. Half a character that an agent has written becomes `?`: clients' parsers refuse it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def readable(text: str) -> bytes:
    """The same for JSON of ASCII that was written elsewhere."""
    return text.encode() if _SURROGATE.search(text) is None else encoded(json.loads(text))


class JsonAnswer(JSONResponse):
    def render(self, content: Json) -> bytes:
        return encoded(content)
