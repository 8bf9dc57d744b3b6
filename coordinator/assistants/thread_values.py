"""Values of rows of threads: those in the row, or those to which it refers."""

from __future__ import annotations

import logging
from dataclasses import replace

from coordinator.assistants.references import dereferenced, referenced
from coordinator.assistants.registry import Assistants
from coordinator.assistants.sizes import size_of
from stores.pages import Page
from stores.rows import ThreadRow

logger = logging.getLogger(__name__)


class ThreadValues:
    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    async def of(self, row: ThreadRow, user_id: str | None, *, read: bool = True) -> ThreadRow:
        """Return the row with its values. A reference is replaced by the current state of the thread, or by
        None if not `read`. Raises what the assistant raises."""
        if not referenced(row.values):
            return row
        if not read:
            return replace(row, values=None)
        values = await dereferenced(
            self._assistants,
            self._assistants.of_thread(row),
            row.thread_id,
            row.values,
            user_id=user_id,
            current=True,
        )
        return replace(row, values=values)

    async def of_page(
        self, page: Page[ThreadRow], user_id: str | None, *, max_bytes: int | None, read: bool
    ) -> Page[ThreadRow]:
        """As `of`. The page ends before a row whose values exceed `max_bytes` together with those that were
        read before it. The values of a thread whose state cannot be read are None."""
        result: Page[ThreadRow] = Page()
        result.cut, left = page.cut, max_bytes
        for row in page:
            if referenced(row.values):
                full = await self._readable(row, user_id, read=read)
                if left is not None:
                    left -= size_of(full.values, limit=left)
                if left is not None and left < 0 and result:
                    result.cut = True
                    break
                result.append(full)
            else:
                result.append(row)
        return result

    async def _readable(self, row: ThreadRow, user_id: str | None, *, read: bool) -> ThreadRow:
        try:
            return await self.of(row, user_id, read=read)
        except Exception:
            logger.exception(
                "The state of thread %r cannot be read; it is listed without values", row.thread_id
            )
            return replace(row, values=None)
