"""The shared store of a cluster, as one of its workers uses it."""

from __future__ import annotations

from typing import Concatenate

from stores.base import EPOCH_ENDED
from stores.errors import StoreUnavailable
from stores.memory import MemoryStore
from stores.rows import Orphan, WorkerRow
from stores.sql.statement import OnConnection, P, Query, SearchStatement, Statement, T


class WorkerStore(MemoryStore):
    """Uses the rows of `shared`. Once `crashed`, every call raises StoreUnavailable.

    `dead`: epochs of workers that have crashed, which every worker can prove, as on one host.
    """

    def __init__(self, shared: MemoryStore, dead: set[int]) -> None:
        super().__init__(shared=True)
        self._shared, self._dead = shared, dead
        self._cx, self._alone, self._now = shared._cx, shared._alone, shared._now
        self.crashed = False

    def proven_dead(self, peer: WorkerRow) -> bool:
        return peer.epoch in self._dead

    def proven_alive(self, peer: WorkerRow) -> bool:
        return peer.epoch not in self._dead

    async def retire(self, epoch: int, *, error: str = EPOCH_ENDED) -> list[Orphan]:
        """After a crash, no effect and no error: a killed process signs off nothing and logs nothing."""
        return [] if self.crashed else await super().retire(epoch, error=error)

    def forget(self, run_id: str) -> None:
        """No effect: the other workers still read the run. It is pruned, as in a file."""

    def _transact(
        self,
        end: str,
        transaction: OnConnection[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._must_live()
        return super()._transact(end, transaction, *args, **kwargs)

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._must_live()
        return await super()._read(query, *args, **kwargs)

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        arguments: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._must_live()
        return await super()._search(query, arguments, user_id, *args, **kwargs)

    def _must_live(self) -> None:
        if self.crashed:
            raise StoreUnavailable("this worker has crashed")
