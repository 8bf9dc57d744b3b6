"""An assistant that keeps the state of threads in a database of its own, which is no part of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.context import RunContext
from coordinator.errors import InvalidArgument, StaleFence
from coordinator.schemas import CheckpointRef, Description, Json, Outcome, RunRequest, StateView
from tests.simulation.agents import Agent

if TYPE_CHECKING:
    import sqlite3

    from tests.simulation.process import Process
    from tests.simulation.truth import Truth


class Entry(NamedTuple):
    """What a run has written, or an operation has copied, with the fence of the write."""

    run_id: str
    fence: int


class Database:
    """The same for all processes of a world, and as durable as the store."""

    def __init__(self) -> None:
        self.fences: dict[str, int] = {}
        self.entries: dict[str, list[Entry]] = {}

    def advance(self, thread_id: str, fence: int) -> list[Entry]:
        """Refuses lower fences from now on. Returns the entries of the thread. Raises StaleFence."""
        if self.fences.get(thread_id, 0) > fence:
            raise StaleFence(thread_id, fence)
        self.fences[thread_id] = fence
        return self.entries.setdefault(thread_id, [])

    def check(self, truth: Truth, cx: sqlite3.Connection) -> None:
        """In the end: the state of a removed thread is removed, or the outbox has it."""
        pending: dict[str, int] = dict(
            cx.execute(
                "SELECT thread_id, removed_fence FROM thread_states WHERE removed_fence IS NOT NULL"
            ).fetchall()
        )
        for thread_id, entries in self.entries.items():
            exists = cx.execute("SELECT 1 FROM threads WHERE thread_id = ?", (thread_id,)).fetchone()
            for run_id, fence in entries:
                of_removed = exists is None or fence <= truth.removed.get(thread_id, 0)
                if of_removed and fence > pending.get(thread_id, 0):
                    truth.wrong(f"thread {thread_id} was removed, and what run {run_id} wrote stays for ever")
        for run_id, (thread_id, entry) in truth.written.items():
            removed = truth.removed.get(thread_id, 0)
            if entry.fence > removed and entry not in self.entries.get(thread_id, []):
                truth.wrong(f"what run {run_id} wrote on thread {thread_id} is lost")


class States:
    """The storage as one process sees it. Each call takes a while, in which anything may happen."""

    kind = "elsewhere"

    def __init__(self, process: Process) -> None:
        self._world = process.world
        self._open: dict[str, int] = {}

    @property
    def _database(self) -> Database:
        return self._world.elsewhere

    def opened(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def _travels(self) -> None:
        await asyncio.sleep(self._world.chance.uniform(0.0005, 0.02))

    async def open(self, thread_id: str, run_id: str, fence: int) -> Json:
        await self._travels()
        self._database.advance(thread_id, fence)
        self._open[thread_id] = fence
        return {"kind": self.kind}

    async def write(self, thread_id: str, entry: Entry) -> None:
        await self._travels()
        if self._open.get(thread_id) != entry.fence:
            raise StaleFence(thread_id, entry.fence)
        entries, truth = self._database.advance(thread_id, entry.fence), self._world.truth
        removed = truth.removed.get(thread_id, 0)
        for run_id, fence in entries:
            if fence <= removed < entry.fence:
                truth.wrong(f"run {entry.run_id} found what run {run_id} wrote on a thread that was removed")
        entries.append(entry)
        truth.written[entry.run_id] = thread_id, entry

    async def restore(self, thread_id: str, run_id: str, ref: Json, fence: int) -> Json:
        await self._travels()
        entries = self._database.advance(thread_id, fence)
        entries[:] = [entry for entry in entries if entry.run_id != run_id]
        self._world.truth.written.pop(run_id, None)
        return None

    def close(self, thread_id: str, fence: int) -> None:
        if self._open.get(thread_id) == fence:
            del self._open[thread_id]

    async def forget(self, run_ids: Sequence[str]) -> None:
        """No-op: `restore` needs no data."""

    async def copy(self, source: str, target: str, run_id: str, fence: int) -> None:
        await self._travels()
        copied = [Entry(entry.run_id, fence) for entry in self._database.entries.get(source, [])]
        replaced = self._database.advance(target, fence)
        for entry in replaced:
            self._world.truth.written.pop(entry.run_id, None)
        replaced[:] = copied

    async def delete(self, thread_id: str, run_id: str, fence: int) -> None:
        await self._travels()
        if not self._world.faults_ended and self._world.chance.random() < 0.5:
            raise TimeoutError("the storage is unavailable")
        self._database.advance(thread_id, fence).clear()
        await self._travels()


class Assistant:
    """Executes the usual code of runs, and writes one entry before."""

    name = "elsewhere"
    features = frozenset[str]()

    def __init__(self, process: Process) -> None:
        self._process, self.states = process, States(process)

    def validate(self, request: RunRequest) -> None:
        """Accepts every request."""

    async def run(self, ctx: RunContext, request: RunRequest) -> Outcome:
        run_id, habits = ctx.run.run_id, self._process.world.habits
        if ctx.fence:
            await self.states.write(ctx.run.thread_id, Entry(run_id, ctx.fence))
        if run_id not in habits:  # its admission was never answered
            habits[run_id] = self._process.world.new_habits()
        result = await Agent(self._process, habits[run_id])(ctx)
        return result if isinstance(result, Outcome) else Outcome(result=result)

    async def state(self, thread_id: str, at: CheckpointRef | None = None, **_: Any) -> StateView | None:
        return None

    async def history(self, thread_id: str, **_: Any) -> AsyncIterator[StateView]:
        return
        yield

    async def update_state(self, ctx: RunContext, values: Json, **_: Any) -> CheckpointRef:
        raise InvalidArgument("values", "no simulated client updates it")

    async def update_states(self, ctx: RunContext, supersteps: Any) -> CheckpointRef:
        raise InvalidArgument("values", "no simulated client updates it")

    async def describe(self, user: Any = None, **_: Any) -> Description:
        return Description()

    async def subgraphs(self, namespace: str | None = None, **_: Any) -> Mapping[str, Description]:
        return {}
