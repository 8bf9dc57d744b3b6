"""Pages of lists as answers: bounded in bytes, and written in steps between which others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from starlette.responses import Response

from coordinator.gateway.wire.json import Json, encoded

T = TypeVar("T")

NEXT = "X-Pagination-Next"
TOTAL = "X-Pagination-Total"
AT_ONCE = 256 << 10
"""Bytes that are written in one turn of the event loop, but for a document that is larger."""


class Page:
    """The answer to a list, document by document."""

    def __init__(self, max_bytes: int | None = None) -> None:
        self._parts: list[bytes] = []
        self._max_bytes, self.bytes = max_bytes, 0
        self._turn = 0

    async def add(self, document: Json) -> bool:
        """False = there is no room for it, and it is not the first one."""
        text = encoded(document)
        if self._max_bytes is not None and self._parts and self.bytes + len(text) > self._max_bytes:
            return False
        self._parts.append(text)
        self.bytes += len(text)
        self._turn += len(text)
        if self._turn > AT_ONCE:
            self._turn = 0
            await asyncio.sleep(0)
        return True

    def answer(self, headers: dict[str, str]) -> Response:
        body = b"[" + b",".join(self._parts) + b"]"
        return Response(body, media_type="application/json", headers=headers)


async def answer_of(rows: Iterable[T], shown: Callable[[T], Json], headers: dict[str, str]) -> Response:
    """All of the rows."""
    page = Page()
    for row in rows:
        await page.add(shown(row))
    return page.answer(headers)


def places(offset: int, count: int, *, total: int) -> dict[str, str]:
    """The headers of `count` rows from `offset` on."""
    headers = {TOTAL: str(total)}
    if count and total > offset + count:
        headers[NEXT] = str(offset + count)
    return headers
