"""Threads: their values, and short operations that hold them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from coordinator import arguments as check
from coordinator.assistants.registry import Assistants
from coordinator.facade.base import Facade
from coordinator.schemas import CheckpointRef, Json, StateStep, StateView
from stores.rows import Ownership, ThreadRow


class ThreadsFacade(Facade):
    @property
    def assistants(self) -> Assistants:
        """Those of this worker, by name or UUID; `register` more before the manager opens."""
        return self._parts.assistants

    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        """The thread with its derived status and values."""
        return await self._parts.queries.thread(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user_id: str | None = None,
    ) -> StateView | None:
        """What the thread holds, as its assistant tells it, now or at a checkpoint; None where it never
        was in that state. Also while a run is active. Raises ThreadNotFound."""
        return await self._parts.reading.state(
            check.check_id("thread_id", thread_id),
            check.check_checkpoint("at", at),
            check.check_optional_id("user_id", user_id),
            subgraphs=check.check_flag("subgraphs", subgraphs),
        )

    def history(
        self,
        thread_id: str,
        *,
        limit: int = 10,
        before: CheckpointRef | None = None,
        metadata: dict[str, Json] | None = None,
        user_id: str | None = None,
    ) -> AsyncIterator[StateView]:
        """The states that the thread had, newest first; of a plain function only the last. Raises
        InvalidArgument; ThreadNotFound while iterating."""
        return self._parts.reading.history(
            check.check_id("thread_id", thread_id),
            limit=check.check_limit("limit", limit),
            before=check.check_checkpoint("before", before),
            metadata=check.check_metadata(metadata),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def update_state(
        self,
        thread_id: str,
        values: Json,
        *,
        as_node: str | None = None,
        at: CheckpointRef | None = None,
        user_id: str | None = None,
    ) -> CheckpointRef:
        """Change the thread's state through its assistant, as a short holder. For a plain function the keys
        that are given replace those that are there. Raises ThreadNotFound, InvalidArgument, and
        ConflictError while a run is in flight."""
        return await self._parts.operations.update_state(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            as_node=check.check_optional_id("as_node", as_node),
            at=check.check_checkpoint("at", at),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def initialise_thread(
        self, thread: ThreadRow, steps: Sequence[StateStep], *, made: bool, user_id: str | None = None
    ) -> None:
        """Give a new thread its first state: `steps` in their order, as one short holder. Does nothing
        if a run or an operation has held the thread since `thread` was read. A refused step removes the
        thread if `made` says that the caller has created it; otherwise it stays. Raises InvalidArgument,
        ConflictError."""
        operations = self._parts.operations
        for step in steps:
            check.check_json("values", step.values)
            check.check_optional_id("as_node", step.as_node)
        await operations.initialise(
            thread,
            steps,
            made=check.check_flag("made", made),
            user_id=check.check_optional_id("user_id", user_id),
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
