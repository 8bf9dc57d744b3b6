"""Where graphs keep the state of their threads: `sqlite_states`, `postgres_states`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver

from coordinator.errors import StoreUnavailable
from coordinator.langgraph.savers.clock import wait_until_after
from coordinator.langgraph.savers.fences import OpenFences
from coordinator.langgraph.savers.records import serializer
from coordinator.langgraph.savers.sqlite.file import CheckpointFile
from coordinator.langgraph.savers.sqlite.schema import Synchronous
from coordinator.langgraph.savers.sqlite.storage import SQLiteStorage
from coordinator.langgraph.savers.storage import Storage
from coordinator.schemas import Json
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

FORGET_EVERY = 1.0
"""s. Undo data of settled runs is removed together."""
_FORGOTTEN_AT_ONCE = 500


class GraphStates:
    """ThreadStates with a checkpoint saver: what the saver writes is fenced, and is undone by `restore`.

    One object per database and process, in one event loop at a time. `allowed`: types besides LangGraph's and
    LangChain's own that are read from checkpoints; values of other types are read as plain data.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        allowed: Iterable[type | tuple[str, str]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._fences = OpenFences()
        self._serde = serializer(allowed)
        self._clock = clock
        self._saver: BaseCheckpointSaver[str] | None = None
        self._settled: set[str] = set()
        self._forgetting: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        return self._storage.kind

    @property
    def saver(self) -> BaseCheckpointSaver[str]:
        """Within `opened`. Raises StoreUnavailable outside."""
        if self._saver is None:
            raise StoreUnavailable("the graph states are not open", hint="Use `async with states.opened()`.")
        return self._saver

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Raises StoreRefused for a database of another program, StoreUnavailable."""
        async with self._storage.opened(self._fences, self._serde) as saver:
            self._saver = saver
            try:
                yield
            finally:
                self._saver = None
                await self._forget_last()

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        """The reference has `head`, the id of the thread's newest checkpoint, and `head_run_id`, the run that
        wrote it; None = there is none, or it is unknown. Raises ClockBehind if checkpoints written now would
        be older than the newest one."""
        self._fences.open(thread_id, fence)
        try:
            head = await self._storage.begin(thread_id, run_id, fence)
            await wait_until_after(head.newest_id, thread_id, self._clock)
        except BaseException:
            self._fences.close(thread_id, fence)
            raise
        self._fences.check(thread_id, fence)  # closed meanwhile?
        if head.checkpoint_id is None or head.checkpoint is not None:
            self._fences.heads.opened(thread_id, fence, head.checkpoint)
        return {"kind": self.kind, "head": head.checkpoint_id, "head_run_id": head.run_id}

    def close(self, thread_id: str, fence: int) -> None:
        self._fences.close(thread_id, fence)

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        """Returns None: the values can be read through the graph alone."""
        del ref  # the undo data is in the database
        self._fences.heads.drop(thread_id, fence)
        await self._storage.undo(thread_id, run_id, fence)

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Removes the data within FORGET_EVERY s. What a crash leaves is removed when the thread is opened
        again, or deleted."""
        self._settled.update(run_ids)
        if self._forgetting is None:
            self._forgetting = begin_soon(self._forget_later())

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        self._fences.heads.drop(target, fence)
        await self._storage.copy(source, target, fence)

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        """A call that comes late, when a newer run has opened the thread, removes nothing and raises
        StaleFence."""
        self._fences.heads.drop(thread_id, fence)
        await self._storage.delete(thread_id, fence)

    async def keep_latest(self, thread_id: str, run_id: str, fence: int) -> None:
        """Keeps the newest checkpoint of the graph and of each subgraph that keeps its state; those of calls
        of subgraphs go with the step that they belong to."""
        self._fences.heads.drop(thread_id, fence)
        await self._storage.keep_latest(thread_id, fence)

    async def _forget_later(self) -> None:
        try:
            while self._settled:
                await asyncio.sleep(FORGET_EVERY)
                await self._forget_some()
        finally:
            self._forgetting = None

    async def _forget_some(self) -> None:
        while batch := [self._settled.pop() for _ in range(min(len(self._settled), _FORGOTTEN_AT_ONCE))]:
            try:
                await self._storage.forget(batch)
            except StoreUnavailable as error:
                logger.warning(
                    "Undo data of %d settled runs was not removed (%s): it stays until their threads are used"
                    " again",
                    len(batch),
                    error,
                )

    async def _forget_last(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.wait((self._forgetting,))
        await self._forget_some()


def sqlite_states(
    path: str | Path,
    *,
    allowed: Iterable[type | tuple[str, str]] = (),
    synchronous: Synchronous = "FULL",
    busy_timeout: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> GraphStates:
    """In a SQLite file, which all processes of a host may share; not on a network file system. `busy_timeout`
    (s) bounds every write."""
    file = CheckpointFile(path, synchronous=synchronous, busy_timeout=busy_timeout)
    return GraphStates(SQLiteStorage(file), allowed=allowed, clock=clock)


def postgres_states(
    url: str,
    *,
    allowed: Iterable[type | tuple[str, str]] = (),
    connections: int = 10,
    statement_cache: int = 200,
    busy_timeout: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> GraphStates:
    """In a PostgreSQL database; needs the extra `postgres`. `url` as of the store.

    `statement_cache=0`: for a pooler in transaction mode that does not track prepared statements.
    `busy_timeout` (s) bounds every call. Raises ValueError for a URL that leads to no server.
    """
    # The driver is an extra of its own.
    from coordinator.langgraph.savers.postgres.storage import PostgresStorage  # noqa: PLC0415
    from stores.postgres.options import Options  # noqa: PLC0415

    options = Options(connections=connections, statement_cache=statement_cache, busy_timeout=busy_timeout)
    return GraphStates(PostgresStorage(url, options), allowed=allowed, clock=clock)
