"""ThreadStates in our own store: `threads.values`, used by function assistants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol, cast

from coordinator.assistants.checkpoints import Checkpoints, StatesStore
from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.sizes import exceeds
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.schemas import Json
from stores.base import ValuesStore
from stores.rows import Ownership
from stores.thread_states import IN_STORE


class KeepingStore(ValuesStore, StatesStore, Protocol):
    """The store operations used by StoredValues."""


class StoredValues:
    """`threads.values`. `open` does no I/O: the claim has incremented the fence that every save checks.

    The first save of a run copies the old values to the run's row in the same transaction; a run that saves
    nothing writes nothing. `epoch` returns this worker's current epoch.
    """

    kind = IN_STORE

    def __init__(
        self, store: KeepingStore, epoch: Callable[[], int], *, max_bytes: int | None = None
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._max_bytes = max_bytes
        self._open: dict[str, int] = {}
        self.checkpoints = Checkpoints(store)
        """Former states of threads."""

    def opened(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()  # the manager opens the store

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        del run_id  # the fence identifies the run
        self.permit(thread_id, fence)
        return {"kind": self.kind}

    def start_ref(self, states: ThreadStates) -> dict[str, Json] | None:
        """Return what `open` returns, if `states` are these: it needs no I/O, so the run may start in the
        transaction that gives it its fence."""
        return {"kind": self.kind} if states is self else None

    def permit(self, thread_id: str, fence: int) -> None:
        """Allow saves with this fence. Called for every run, also if its assistant has another storage.
        Raises StaleFence."""
        if not fence:  # a run that does not hold the thread must not write its values
            return
        if self._open.get(thread_id, 0) > fence:
            raise StaleFence(thread_id, fence)
        self._open[thread_id] = fence

    async def save(self, own: Ownership, values: Json, *, last: bool = False) -> None:
        """Save the thread's values. `last`: the final save of a run that must stop. Raises StaleFence if the
        run was closed here, lost the thread in the store, must be rolled back or has made its final save;
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
        del ref  # the run's row holds the old values
        return await self._store.restore(self._own(thread_id, run_id, fence))

    def close(self, thread_id: str, fence: int) -> None:
        if self._open.get(thread_id) == fence:
            del self._open[thread_id]

    async def forget(self, run_ids: Sequence[str]) -> None:
        """No-op: the undo data is part of the run's row and is removed with it."""

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        thread = await self._store.thread(source)
        if thread is not None:
            await self._store.save(self._own(target, run_id, fence), thread.values)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._store.save(self._own(thread_id, run_id, fence), None)

    async def keep_latest(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._store.keep_latest_checkpoint(self._own(thread_id, run_id, fence))

    def _own(self, thread_id: str, run_id: str, fence: int) -> Ownership:
        return Ownership(run_id, thread_id, self._epoch(), fence)


def updates_of(values: Json) -> list[dict[str, Json]]:
    """Return the updates of a client as a list: it sends None, a dict, or a list of them. Raises
    InvalidArgument."""
    updates = cast("list[Json]", values if isinstance(values, list) else [values])
    for update in updates:
        if update is not None and not isinstance(update, dict):
            raise InvalidArgument("values", f"must be a dict or None, not {type(update).__name__}")
    return [cast("dict[str, Json]", update) for update in updates if update is not None]


def merged(held: Json, updates: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """Return `held` with the keys of all updates replaced; other keys stay."""
    result = dict(cast("dict[str, Json]", held)) if isinstance(held, dict) else {}
    for update in updates:
        result.update(update)
    return result
