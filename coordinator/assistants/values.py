"""ThreadStates on our own store: the thread's values, for assistants that are plain functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coordinator.errors import StaleFence
from coordinator.schemas import Json
from stores.base import ValuesStore
from stores.rows import Ownership


class StoredValues:
    """`threads.values`. Opening costs no I/O: claim has bumped the fence that every save checks.

    The first save of a run keeps the old values in the run's row, in the same transaction, so a run
    that saves nothing costs nothing. `epoch` answers this worker's current epoch.
    """

    kind = "values"

    def __init__(self, store: ValuesStore, epoch: Callable[[], int]) -> None:
        self._store = store
        self._epoch = epoch
        self._open: dict[str, int] = {}

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        del run_id  # the fence says it all
        if not fence:  # beside the slot: the thread's values are not its to write
            return {"kind": self.kind}
        if self._open.get(thread_id, 0) > fence:
            raise StaleFence(thread_id, fence)
        self._open[thread_id] = fence
        return {"kind": self.kind}

    async def save(self, own: Ownership, values: Json) -> None:
        """Raises StaleFence where the run was closed here, or has lost the thread in the store."""
        if not own.fence or self._open.get(own.thread_id) != own.fence:
            raise StaleFence(own.thread_id, own.fence)
        await self._store.save(own, values)

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        del ref  # the row itself keeps the old values
        return await self._store.restore(self._own(thread_id, run_id, fence))

    def close(self, thread_id: str, fence: int) -> None:
        if self._open.get(thread_id) == fence:
            del self._open[thread_id]

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Nothing to do: the undo data is a part of the run's row and goes with it."""

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        thread = await self._store.thread(source)
        if thread is not None:
            await self._store.save(self._own(target, run_id, fence), thread.values)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._store.save(self._own(thread_id, run_id, fence), None)

    def _own(self, thread_id: str, run_id: str, fence: int) -> Ownership:
        return Ownership(run_id, thread_id, self._epoch(), fence)
