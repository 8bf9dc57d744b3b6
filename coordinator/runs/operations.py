"""Operations: short holders of a thread that are not runs (update, copy, delete).

Without them a state update on one worker would race a run on another. An operation is admitted with
`reject`, has its own fence, shows in the audit and not in run lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from coordinator.assistants.ports import ThreadStates
from coordinator.assistants.values import StoredValues
from coordinator.errors import ConflictError, LeaseLost, ThreadNotFound
from coordinator.runs.admission import Admissions, asked
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.schemas import Json, RunStatus
from stores.base import ValuesStore
from stores.rows import Outcome, Ownership


class OperatingStore(ValuesStore, Protocol):
    """What operations need of the store."""


class Operations:
    def __init__(
        self,
        store: OperatingStore,
        registry: Registry,
        *,
        admissions: Admissions,
        lifecycle: Lifecycle,
        settlement: Settlement,
        states: ThreadStates,
        values: StoredValues,
    ) -> None:
        self._store, self._registry = store, registry
        self._admissions, self._lifecycle, self._settlement = admissions, lifecycle, settlement
        self._states, self._values = states, values

    @asynccontextmanager
    async def holding(self, thread_id: str, name: str, user_id: str | None) -> AsyncGenerator[Ownership]:
        """Hold the thread for the block. Raises ConflictError while a run is in flight there.

        The block's exception ends the operation as an error and propagates."""
        new = asked(thread_id=thread_id, user_id=user_id, metadata={"operation": name}, kind="op")
        record = await self._admissions.admit(new)
        entry = self._registry.entry(record.run_id)
        if entry is None:
            raise ConflictError(thread_id)
        block: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.tracked.add(block)  # whoever decides over the operation does not free its thread under it
        outcome = Outcome(RunStatus.success)
        try:
            if await self._lifecycle.start(entry, self._states) is None or entry.own is None:
                raise ConflictError(thread_id)
            yield entry.own
        except BaseException as error:
            outcome = Outcome(RunStatus.error, f"{type(error).__name__}: {error}")
            raise
        finally:
            entry.tracked.discard(block)
            block.set_result(None)
            await self._settlement.conclude(entry, outcome)
            self._registry.drop(record.run_id)
        if entry.lost:
            raise LeaseLost(entry.own.epoch)

    async def update_values(self, thread_id: str, values: Json, user_id: str | None) -> None:
        async with self.holding(thread_id, "update", user_id) as own:
            await self._values.save(own, values)

    async def copy(self, source: str, target: str, user_id: str | None) -> None:
        """`target` gets the values of `source`. Raises ThreadNotFound."""
        thread = await self._store.thread(source)
        if thread is None or (user_id is not None and thread.user_id != user_id):
            raise ThreadNotFound(source)
        async with self.holding(target, f"copy of {source}", user_id) as own:
            await self._states.copy(source, target, own.run_id, own.fence)

    async def delete(self, thread_id: str, user_id: str | None) -> None:
        """Remove the thread with its state and its runs, but for those that were admitted meanwhile and
        wait for their turn: they find it empty. Raises ThreadNotFound, ConflictError."""
        thread = await self._store.thread(thread_id)
        if thread is None or (user_id is not None and thread.user_id != user_id):
            raise ThreadNotFound(thread_id)
        async with self.holding(thread_id, "delete", user_id) as own:
            await self._states.delete(thread_id, own.run_id, own.fence)
            await self._store.delete_thread(own)
        for record in self._registry.of_thread(thread_id):
            known = self._registry.entry(record.run_id)
            if known is None or known.settled.is_set():
                self._registry.drop(record.run_id)
