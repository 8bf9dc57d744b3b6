"""state, history: what a thread holds, as its assistant tells it. Reads only, also while a run is active."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from coordinator.assistants.registry import Assistants
from coordinator.errors import ThreadNotFound
from coordinator.runs.queries import Queries
from coordinator.schemas import CheckpointRef, Json, StateView, User


class Reading:
    def __init__(self, queries: Queries, assistants: Assistants) -> None:
        self._queries, self._assistants = queries, assistants

    async def state(
        self, thread_id: str, at: CheckpointRef | None, user_id: str | None, *, subgraphs: bool
    ) -> StateView | None:
        """None = it never was in the state `at`. Raises ThreadNotFound."""
        thread = await self._queries.thread(thread_id, user_id)
        if thread is None:
            raise ThreadNotFound(thread_id)
        assistant = self._assistants.reading(thread.assistant_id)
        view = await assistant.state(thread_id, at, subgraphs=subgraphs, user=_user(user_id))
        return StateView() if view is None and at is None else view

    async def history(
        self,
        thread_id: str,
        *,
        limit: int,
        before: CheckpointRef | None,
        metadata: Mapping[str, Json] | None,
        user_id: str | None,
    ) -> AsyncIterator[StateView]:
        """Newest first. Raises ThreadNotFound."""
        thread = await self._queries.thread(thread_id, user_id)
        if thread is None:
            raise ThreadNotFound(thread_id)
        assistant = self._assistants.reading(thread.assistant_id)
        views = assistant.history(
            thread_id, limit=limit, before=before, metadata=metadata, user=_user(user_id)
        )
        async for view in views:
            yield view


def _user(user_id: str | None) -> User | None:
    return None if user_id is None else User(user_id)
