"""JSON of HTTP messages: strict for requests, tolerant for responses."""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import cast

import pydantic_core
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from coordinator.gateway.lazy import LazyRoute
from coordinator.gateway.wire import weight
from stores.json_values import Json, JsonObject

_SURROGATE = re.compile(
    r"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}",
    re.IGNORECASE,
)
"""An unpaired surrogate in ASCII JSON. Also matches `\\\\ud800`, which is none: the text is then parsed."""


_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE = (b"0e000", b"0" * 309)
"""Substrings of every number that is too large to be finite, with all digits replaced by 0 and without
`+`."""


_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_POSITION = re.compile(r" at line (\d+) column (\d+)$")
_TEXT_OR_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9][-+.0-9eE]*+')
"""A string or a number in valid JSON. Possessive quantifiers: long strings need no memory for
backtracking."""


class StrictRequest(Request):
    async def json(self) -> Json:
        """Parses the body as `parsed` does. Raises HTTPException (413) if the body has so many values that
        parsing would block the event loop."""
        body = await self.body()
        if weight.at_most(body) > weight.MAX_VALUES and await asyncio.to_thread(
            weight.exceeds, body, weight.MAX_VALUES
        ):
            raise HTTPException(413, f"the body has more than {weight.MAX_VALUES} values")
        return parsed(body)


def parsed(body: bytes) -> Json:
    """Parses JSON and refuses what databases and other parsers refuse: invalid UTF-8, unpaired surrogates,
    numbers that are not finite, great depth. Raises JSONDecodeError."""
    try:
        content = pydantic_core.from_json(body, allow_inf_nan=False)
        shape = body.translate(_DIGITS_ALIKE, b"+")
        if any(part in shape for part in _HUGE) and not _is_finite(content):
            raise ValueError(f"a number is too large{_position_of_too_large_number(body)}")
    except ValueError as error:
        # FastAPI puts `pos` into the location of its response, and the message where `errors` reads it.
        raise json.JSONDecodeError(*_decode_error(body, str(error))) from None
    return content


def _decode_error(body: bytes, message: str) -> tuple[str, str, int]:
    """Returns the arguments of a JSONDecodeError: the message with cause, line and column; an empty document,
    because the client's must not be logged; and the offset in bytes."""
    if body.startswith(_BYTE_ORDER_MARKS):
        return "it begins with a byte order mark; JSON is UTF-8 without one", "", 0
    if (position := _POSITION.search(message)) is None:
        return message, "", 0
    line, column = map(int, position.groups())
    lines = body.split(b"\n", line - 1)[: line - 1]
    offset = sum(map(len, lines)) + len(lines) + max(0, column - 1)
    if body.startswith((b"NaN", b"Infinity"), offset):
        message = f"NaN and Infinity are not valid in JSON{position.group()}"
    return message, "", offset


def _position_of_too_large_number(body: bytes) -> str:
    """Returns the position of the first such number in valid JSON, in the format of the parser's messages."""
    for token in _TEXT_OR_NUMBER.finditer(body):
        if not token.group().startswith(b'"') and not math.isfinite(float(token.group())):
            offset = token.start()
            line, column = body.count(b"\n", 0, offset) + 1, offset - body.rfind(b"\n", 0, offset)
            return f" at line {line} column {column}"
    return ""


def _is_finite(content: Json) -> bool:
    """Returns whether all numbers in `content` are finite."""
    pending: list[Json] = [content]
    for value in pending:  # the loop appends to the list
        if isinstance(value, float):
            if not math.isfinite(value):
                return False
        elif isinstance(value, dict):
            pending += cast("JsonObject", value).values()
        elif isinstance(value, list):
            pending += cast("list[Json]", value)
    return True


class StrictRoute(LazyRoute):
    """The route class of every router of the API, which parses bodies strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def encoded(content: Json) -> bytes:
    """Encodes `content` as UTF-8. Unpaired surrogates of an agent become `?`, because parsers of clients
    refuse them. Raises ValueError, TypeError."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def readable(text: str) -> bytes:
    """Encodes stored ASCII JSON as UTF-8; unpaired surrogates become `?`. Text that is not JSON is passed
    through."""
    if "\\u" not in text or _SURROGATE.search(text) is None:
        return text.encode()
    try:
        return encoded(json.loads(text))
    except (ValueError, RecursionError):
        return text.encode()


class TolerantJsonResponse(JSONResponse):
    def render(self, content: Json) -> bytes:
        return encoded(content)
