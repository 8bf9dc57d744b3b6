"""Removes the state that removed threads have left in the storages of assistants."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from coordinator.assistants.bounded import bounded
from coordinator.assistants.ports import ThreadStates
from coordinator.errors import StaleFence
from stores.rows import Ownership
from stores.thread_states import IN_STORE, RemovedState, ThreadStatesStore

logger = logging.getLogger(__name__)

BATCH = 100
"""Threads whose removal is confirmed in one transaction."""
BATCHES = 10
"""In one sweep."""


class StateRemoval:
    """The store keeps an outbox of that state (`stores.thread_states`), which any worker with a storage of
    its kind works off. `kinds` returns the storages of this worker. Each call of a storage is limited to
    `within` s. The state that our own store keeps is removed with its thread."""

    def __init__(self, store: object, kinds: Callable[[], Sequence[ThreadStates]], *, within: float) -> None:
        self._store = store if isinstance(store, ThreadStatesStore) else None
        self._kinds, self._within = kinds, within

    @property
    def storages(self) -> dict[str, ThreadStates]:
        """The storages of this worker other than our own store, by kind."""
        return {states.kind: states for states in self._kinds() if states.kind != IN_STORE}

    async def before(self, own: Ownership, states: ThreadStates) -> None:
        """Must be called before a run opens `states`: removes what an earlier thread with the same id has
        left there, so that the run does not begin with it. Idempotent. Raises StoreUnavailable, and what
        `ThreadStates.delete` raises."""
        if self._store is None or states.kind == IN_STORE or own.fence < 2:  # 1: there was no earlier thread
            return
        left = await self._store.removed_state(own.thread_id, states.kind)
        if left is not None:
            await self._delete(states, own.thread_id, own.run_id, own.fence)
            await self._store.forget_removed_states([left])

    async def note(self, own: Ownership) -> None:
        """Must be called before an operation writes to all storages. Raises as `before`, and StaleFence."""
        if self._store is not None and (storages := self.storages):
            for states in storages.values():
                await self.before(own, states)
            await self._store.note_states(own, list(storages))

    async def of_thread(self, own: Ownership) -> None:
        """Removes the state of a thread that the operation `own` has removed from the store. Best effort: the
        outbox keeps what remains."""
        states = [RemovedState(own.thread_id, kind, own.fence) for kind in self.storages]
        await self._remove(states, own.run_id)

    async def sweep(self) -> None:
        """Works off the outbox, as far as it is due and this worker has the storages. Raises
        StoreUnavailable."""
        kinds = list(self.storages)
        for _ in range(BATCHES if kinds and self._store is not None else 0):
            claimed = await self._claim(kinds)
            failed = await self._remove(claimed, "")
            kinds = [kind for kind in kinds if kind not in failed]
            if len(claimed) < BATCH or not kinds:
                return

    async def _claim(self, kinds: Sequence[str]) -> list[RemovedState]:
        return [] if self._store is None else await self._store.claim_removed_states(kinds, limit=BATCH)

    async def _remove(self, left: Sequence[RemovedState], run_id: str) -> set[str]:
        """Returns the kinds of the storages that have failed, each of which is not called again."""
        storages, done, failed = self.storages, list[RemovedState](), set[str]()
        for state in left:
            if state.kind in failed:
                continue
            try:
                await self._delete(storages[state.kind], state.thread_id, run_id, state.fence)
            except StaleFence:
                pass  # a run of a later thread has opened the storage, and has removed this state before
            except Exception:
                failed.add(state.kind)
                logger.warning(
                    "The state of the removed thread %r is still in the storage %r, which failed to remove it"
                    " (attempt %d); it is tried again later",
                    state.thread_id,
                    state.kind,
                    max(state.attempts, 1),
                    exc_info=True,
                )
                continue
            done.append(state)
        if done and self._store is not None:
            await self._store.forget_removed_states(done)
        return failed

    async def _delete(self, states: ThreadStates, thread_id: str, run_id: str, fence: int) -> None:
        await bounded(states.delete(thread_id, run_id, fence), self._within, "removing the state of a thread")
