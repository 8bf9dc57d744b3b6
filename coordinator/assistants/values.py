"""ThreadStates on our own store: the thread's values, for assistants that are plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

from coordinator.assistants.checkpoints import Checkpoints, StatesStore
from coordinator.assistants.sizes import exceeds
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.schemas import Json
from stores.base import ValuesStore
from stores.rows import Ownership


class KeepingStore(ValuesStore, StatesStore, Protocol):
    """What stored values need of the store."""


class StoredValues:
    """`threads.values`. Opening costs no I/O: claim has bumped the fence that every save checks.

    The first save of a run keeps the old values in the run's row, in the same transaction, so a run
    that saves nothing costs nothing. `epoch` answers this worker's current epoch.
    """

    kind = "values"

    def __init__(
        self, store: KeepingStore, epoch: Callable[[], int], *, max_bytes: int | None = None
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._max_bytes = max_bytes
        self._open: dict[str, int] = {}
        self.checkpoints = Checkpoints(store)
        """Which states threads have had."""

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        del run_id  # the fence says it all
        self.opened(thread_id, fence)
        return {"kind": self.kind}

    def opened(self, thread_id: str, fence: int) -> None:
        """For every run, wherever its assistant keeps state: it may save. Raises StaleFence."""
        if not fence:  # beside the slot: the thread's values are not its to write
            return
        if self._open.get(thread_id, 0) > fence:
            raise StaleFence(thread_id, fence)
        self._open[thread_id] = fence

    async def save(self, own: Ownership, values: Json, *, last: bool = False) -> None:
        """`last`: the run was told to stop, and saves for the last time. Raises StaleFence where the run was
        closed here, has lost the thread in the store, is to be rolled back or has saved for the last time;
        InvalidArgument for values that are too large."""
        self.check_size(values)
        if not own.fence or self._open.get(own.thread_id) != own.fence:
            raise StaleFence(own.thread_id, own.fence)
        await self._store.save(own, values, last=last)

    def check_size(self, values: Json) -> None:
        """Raises InvalidArgument."""
        size = None if self._max_bytes is None else exceeds(values, self._max_bytes)
        if size is not None:
            why = f"may have {self._max_bytes} bytes as JSON, not {size} (setting max_values_bytes)"
            raise InvalidArgument("values", why)

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


def updates_of(values: Json) -> list[dict[str, Json]]:
    """What a client gives as an update of a state: nothing, a dict, or several in their order. Raises
    InvalidArgument."""
    updates = cast("list[Json]", values if isinstance(values, list) else [values])
    for update in updates:
        if update is not None and not isinstance(update, dict):
            raise InvalidArgument("values", f"must be a dict or None, not {type(update).__name__}")
    return [cast("dict[str, Json]", update) for update in updates if update is not None]


def merged(held: Json, updates: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """The keys that are given replace those that are there, the others stay."""
    result = dict(cast("dict[str, Json]", held)) if isinstance(held, dict) else {}
    for update in updates:
        result.update(update)
    return result
