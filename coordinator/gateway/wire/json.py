"""JSON at the edge: strict where it comes in, tolerant where it goes out."""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pydantic_core
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from coordinator.gateway.lazy import LazyRoute
from coordinator.gateway.wire import weight

Json = Any

_SURROGATE = re.compile(
    r"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}",
    re.IGNORECASE,
)
"""In JSON of ASCII: half a character. Also finds `\\\\ud800`, which is none: the text is then looked at."""


_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE = (b"0e000", b"0" * 309)
"""What every number has that is too large to be finite, with all digits alike and without `+`."""


_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_PLACE = re.compile(r" at line (\d+) column (\d+)$")
_TEXT_OR_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9][-+.0-9eE]*+')
"""Of a body that is JSON. Possessive: a text of megabytes takes no memory for ways back."""


class _StrictRequest(Request):
    async def json(self) -> Json:
        """Refuses what databases and other parsers refuse: invalid UTF-8, half characters, numbers that are
        not finite, great depth. Raises HTTPException (413) for more values than a turn of the loop can
        read."""
        body = await self.body()
        if weight.at_most(body) > weight.MAX_VALUES and await asyncio.to_thread(
            weight.exceeds, body, weight.MAX_VALUES
        ):
            raise HTTPException(413, f"the body has more than {weight.MAX_VALUES} values")
        try:
            content = pydantic_core.from_json(body, allow_inf_nan=False)
            shape = body.translate(_DIGITS_ALIKE, b"+")
            if any(part in shape for part in _HUGE) and not _is_finite(content):
                raise ValueError(f"a number is too large{_place_of_too_large_number(body)}")
        except ValueError as error:
            # What FastAPI answers has `pos` in its location, and the message where `errors` puts it.
            raise json.JSONDecodeError(*_fault(body, str(error))) from None
        return content


def _fault(body: bytes, message: str) -> tuple[str, str, int]:
    """The message with cause, line and column, the document (left out: it is the client's), and the offset in
    bytes."""
    if body.startswith(_BYTE_ORDER_MARKS):
        return "it begins with a byte order mark; JSON is UTF-8 without one", "", 0
    if (place := _PLACE.search(message)) is None:
        return message, "", 0
    line, column = map(int, place.groups())
    before = body.split(b"\n", line - 1)[: line - 1]
    offset = sum(map(len, before)) + len(before) + max(0, column - 1)
    if body.startswith((b"NaN", b"Infinity"), offset):
        message = f"NaN and Infinity are no numbers of JSON{place.group()}"
    return message, "", offset


def _place_of_too_large_number(body: bytes) -> str:
    """Of the first one in a body that is JSON, as the parser names places."""
    for token in _TEXT_OR_NUMBER.finditer(body):
        if not token.group().startswith(b'"') and not math.isfinite(float(token.group())):
            at = token.start()
            line, column = body.count(b"\n", 0, at) + 1, at - body.rfind(b"\n", 0, at)
            return f" at line {line} column {column}"
    return ""


def _is_finite(content: Json) -> bool:
    """Are all its numbers?"""
    todo: list[Any] = [content]
    for value in todo:  # which grows meanwhile
        if isinstance(value, float):
            if not math.isfinite(value):
                return False
        elif isinstance(value, dict):
            todo += cast("dict[str, Any]", value).values()
        elif isinstance(value, list):
            todo += cast("list[Any]", value)
    return True


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
    """The same for JSON of ASCII that was written elsewhere. What is no JSON is passed on as it is."""
    if _SURROGATE.search(text) is None:
        return text.encode()
    try:
        return encoded(json.loads(text))
    except (ValueError, RecursionError):
        return text.encode()


class JsonAnswer(JSONResponse):
    def render(self, content: Json) -> bytes:
        return encoded(content)
