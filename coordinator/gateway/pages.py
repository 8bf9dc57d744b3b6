"""Pages of lists as responses: bounded in bytes, and encoded in steps that yield to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from starlette.responses import Response

from coordinator.gateway.wire.json import Json, encoded

T = TypeVar("T")

NEXT = "X-Pagination-Next"
TOTAL = "X-Pagination-Total"
BYTES_PER_TURN = 256 << 10
"""Bytes that are encoded before the event loop runs other tasks; a single document may be larger."""


class Page:
    """A JSON list that is encoded document by document, up to `max_bytes`."""

    def __init__(self, max_bytes: int | None = None) -> None:
        self._parts: list[bytes] = []
        self._max_bytes, self.bytes = max_bytes, 0
        self._unyielded = 0

    async def add(self, document: Json) -> bool:
        """Adds a document. Returns False, without adding it, if the page would exceed `max_bytes`; the first
        document is always added."""
        text = encoded(document)
        if self._max_bytes is not None and self._parts and self.bytes + len(text) > self._max_bytes:
            return False
        self._parts.append(text)
        self.bytes += len(text)
        self._unyielded += len(text)
        if self._unyielded > BYTES_PER_TURN:
            self._unyielded = 0
            await asyncio.sleep(0)
        return True

    def begin(self) -> bytes:
        """Returns the list without its end, and releases its documents."""
        body, self._parts = b"[" + b",".join(self._parts), []
        return body

    def response(self, headers: dict[str, str]) -> Response:
        body = b"[" + b",".join(self._parts) + b"]"
        return Response(body, media_type="application/json", headers=headers)


async def page_of(rows: Iterable[T], document_of: Callable[[T], Json], headers: dict[str, str]) -> Response:
    """Returns a response with all of `rows`."""
    page = Page()
    for row in rows:
        await page.add(document_of(row))
    return page.response(headers)


def pagination_headers(offset: int, count: int, *, total: int) -> dict[str, str]:
    """Returns the pagination headers of a page with `count` rows from `offset` on."""
    headers = {TOTAL: str(total)}
    if count and total > offset + count:
        headers[NEXT] = str(offset + count)
    return headers
