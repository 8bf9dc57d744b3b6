"""Where graphs keep their state: the checkpoints of threads, and the store that all threads share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from langgraph.store.base import BaseStore

from coordinator.assistants.ports import PrunableStates, ThreadStates
from coordinator.langgraph.loading import Saver
from coordinator.schemas import Json


class GraphStates(ThreadStates, PrunableStates, Protocol):
    """Thread states whose checkpoints a graph writes through `saver`."""

    @property
    def saver(self) -> Saver:
        """Usable while `opened` is entered."""
        ...


class GraphStorage:
    """The states, with a store that is open as long as they are. Several graphs share one object.

    The store is neither fenced nor rolled back: what a run has put into it stays.
    """

    def __init__(
        self, states: GraphStates, store: AbstractAsyncContextManager[BaseStore] | None = None
    ) -> None:
        self._states, self._opening = states, store
        self.store: BaseStore | None = None

    @property
    def saver(self) -> Saver:
        return self._states.saver

    @property
    def kind(self) -> str:
        return self._states.kind

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        async with self._states.opened():
            if self._opening is None:
                yield
                return
            async with self._opening as store:
                self.store = store
                try:
                    yield
                finally:
                    self.store = None

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        return await self._states.open(thread_id, run_id, fence)

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        return await self._states.restore(thread_id, run_id, ref, fence)

    def close(self, thread_id: str, fence: int) -> None:
        self._states.close(thread_id, fence)

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self._states.forget(run_ids)

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        await self._states.copy(source, target, run_id, fence)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._states.delete(thread_id, run_id, fence)

    async def keep_latest(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._states.keep_latest(thread_id, run_id, fence)


def store_of(states: GraphStates) -> BaseStore | None:
    return states.store if isinstance(states, GraphStorage) else None
