"""ThreadStates on our own store: the thread's values, for assistants that are plain functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import cast
from uuid import UUID, uuid5

from coordinator.assistants.sizes import exceeds
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.schemas import CheckpointRef, Interrupt, Json, StateView
from stores.base import ValuesStore
from stores.rows import Ownership, ThreadRow
from stores.times import iso

_NAMESPACE = UUID("9f0c2e1c-5d0b-5c8e-9a53-6a1f4d7c2b10")


class StoredValues:
    """`threads.values`. Opening costs no I/O: claim has bumped the fence that every save checks.

    The first save of a run keeps the old values in the run's row, in the same transaction, so a run
    that saves nothing costs nothing. `epoch` answers this worker's current epoch.
    """

    kind = "values"

    def __init__(self, store: ValuesStore, epoch: Callable[[], int], *, max_bytes: int | None = None) -> None:
        self._store = store
        self._epoch = epoch
        self._max_bytes = max_bytes
        self._open: dict[str, int] = {}

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

    async def view(self, thread_id: str, name: str) -> StateView | None:
        """The thread as it is, whose assistant calls itself `name`; None = there is no such thread."""
        thread = await self._store.thread(thread_id)
        if thread is None:
            return None
        interrupts = _interrupts(thread.interrupts)
        return StateView(
            values=thread.values,
            next=(name,) if thread.status == "interrupted" else (),
            checkpoint=_mark(thread),
            metadata={**thread.metadata, "thread_id": thread_id, "graph_id": thread.assistant_id},
            created_at=iso(thread.updated_at),
            tasks=_tasks(thread, name) if interrupts else (),
            interrupts=interrupts,
        )

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


def _mark(thread: ThreadRow) -> CheckpointRef | None:
    """Names what the thread holds: the same values have the same id, whoever asks and when. None where
    nothing was ever written."""
    if thread.values is None and thread.interrupts is None:
        return None
    held = json.dumps([thread.thread_id, thread.values, thread.interrupts], sort_keys=True)
    return CheckpointRef(str(uuid5(_NAMESPACE, held)))


def _interrupts(stored: Json) -> tuple[Interrupt, ...]:
    listed = cast("list[dict[str, Json]]", stored if isinstance(stored, list) else [])
    return tuple(Interrupt(one.get("value"), one.get("id")) for one in listed)


def _tasks(thread: ThreadRow, name: str) -> tuple[Json, ...]:
    """User interfaces look for the questions of a paused run in what was going to run next."""
    marked = _mark(thread)
    return (
        {
            "id": None if marked is None else marked.checkpoint_id,
            "name": name,
            "error": None,
            "interrupts": thread.interrupts,
            "checkpoint": None,
            "state": None,
            "result": None,
        },
    )
