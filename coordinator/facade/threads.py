"""Threads: their values, and short operations that hold them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from coordinator import arguments as check
from coordinator.facade.base import Facade
from coordinator.schemas import Json
from stores.rows import Ownership, ThreadRow


class ThreadsFacade(Facade):
    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        """The thread with its derived status and values."""
        return await self._parts.queries.thread(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    async def update_thread(self, thread_id: str, values: Json, *, user_id: str | None = None) -> None:
        """Replace the thread's values as a short holder. Raises ConflictError while a run is in flight."""
        await self._parts.operations.update_values(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            check.check_optional_id("user_id", user_id),
        )

    async def copy_thread(self, source: str, target: str, *, user_id: str | None = None) -> None:
        """Give `target` the values of `source`. Raises ThreadNotFound, ConflictError."""
        await self._parts.operations.copy(
            check.check_id("source", source),
            check.check_id("target", target),
            check.check_optional_id("user_id", user_id),
        )

    async def delete_thread(self, thread_id: str, *, user_id: str | None = None) -> None:
        """Remove the thread, its values and its runs. Raises ThreadNotFound, ConflictError."""
        await self._parts.operations.delete(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    def operation(
        self, thread_id: str, name: str, *, user_id: str | None = None
    ) -> AbstractAsyncContextManager[Ownership]:
        """Hold a thread for a short operation of the caller's own."""
        return self._parts.operations.holding(
            check.check_id("thread_id", thread_id),
            check.check_id("name", name),
            check.check_optional_id("user_id", user_id),
        )
