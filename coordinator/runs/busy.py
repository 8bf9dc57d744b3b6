"""The fast refusal of runs on a busy thread, without a transaction."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from coordinator.errors import ConflictError
from coordinator.lock import SlotLock, SlotState
from coordinator.runs.patience import Patience
from stores.base import AdmissionStore, RecordStore
from stores.spec import AdmissionRequest
from stores.tasks import begin_soon


class ReadingStore(AdmissionStore, RecordStore, Protocol):
    """Store operations that verify whether a thread is busy."""


class BusyThreads:
    def __init__(self, store: ReadingStore, slots: SlotLock) -> None:
        self._store, self._slots = store, slots
        self._verifying: dict[str, asyncio.Future[str | None]] = {}

    async def refuse(self, request: AdmissionRequest, patience: Patience) -> None:
        """Checks Redis first. If Redis reports the thread as busy, one indexed read of the store verifies it
        before ConflictError is raised."""
        answer = await self._slots.admit(request.spec.thread_id, request.run_id)
        if answer.state is SlotState.busy:
            await patience.attempt(partial(self._verify, request))
            patience.failed = 0  # a read commits nothing

    async def _verify(self, request: AdmissionRequest) -> None:
        """Raises ConflictError if a run holds the thread and the user may see it. Otherwise the admission
        itself decides, which knows the owner of the thread."""
        spec = request.spec
        if (holder := await self._holder(spec.thread_id)) is None:
            return
        if spec.user_id is None or await self._store.get(holder, user_id=spec.user_id) is not None:
            raise ConflictError(spec.thread_id, holder)

    async def _holder(self, thread_id: str) -> str | None:
        """Returns the holder of the thread. Calls of the same turn of the loop share one read, which begins
        after all of them."""
        shared = self._verifying.get(thread_id)
        if shared is None:
            shared = self._verifying[thread_id] = begin_soon(self._read_holder(thread_id))
        return await asyncio.shield(shared)

    async def _read_holder(self, thread_id: str) -> str | None:
        del self._verifying[thread_id]  # calls from here on need a read that begins later
        return await self._store.holder(thread_id)
