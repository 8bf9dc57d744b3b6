"""A JSON list that is larger than a page. It is sent document by document: this process keeps one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from coordinator.errors import CoordinatorError
from coordinator.gateway.long_lived_responses import (
    LongLivedResponse,
    ResponseAborted,
    SendBody,
    StreamSlot,
)
from coordinator.gateway.pages import Page
from coordinator.gateway.wire.json import Json, encoded


class StreamedList(LongLivedResponse):
    """Sends `page`, which has no room for `following`, then `following` and what `documents` yields. If that
    raises, the connection is closed within the list, so that the client does not take it for complete."""

    media_type = "application/json"

    def __init__(
        self, page: Page, following: Json, documents: AsyncGenerator[Json], slot: StreamSlot
    ) -> None:
        super().__init__(slot, headers={})
        self._page, self._following, self._documents = page, following, documents

    async def respond(self, start: Callable[[], Awaitable[None]], send: SendBody) -> None:
        async with aclosing(self._documents):
            await start()
            await send(self._page.begin())
            await send(b"," + encoded(self._following))
            del self._following
            try:
                async for document in self._documents:
                    await send(b"," + encoded(document))
            except CoordinatorError as error:
                raise ResponseAborted from error
            await send(b"]")
