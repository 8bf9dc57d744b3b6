"""A workload of runs that begin and end in every way, and samples of the resources that the process holds."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator import (
    CoordinatorError,
    RunContext,
    RunManager,
    RunRecord,
    RunStatus,
    Settings,
    open_coordinator,
)
from coordinator.servers.valkey import ValkeyServer
from tests.support.inside import assembly_of, bookkeeping_of, records_of

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds at one moment."""

    at: float
    """Seconds since the churn began."""
    rss: int
    """Bytes of resident memory."""
    tasks: int
    files: int
    redis_keys: int
    redis_connections: int
    runs_in_memory: int
    unsettled: int
    waiting: dict[str, int]
    """Sizes of the maps that hold something only while it is under way."""
    ended: int
    """Runs that have ended so far."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Churn:
    """Keeps `running` runs going; each step ends one, in one of many ways, and begins another."""

    def __init__(self, manager: RunManager, server: ValkeyServer, *, running: int, seed: int = 0) -> None:
        self.manager, self._server, self._size = manager, server, running
        self._random = random.Random(seed)
        self._going: dict[str, tuple[RunRecord, asyncio.Event]] = {}
        self._idle = [f"thread-{at}" for at in range(2 * running)]
        self.ended = 0
        self._began = time.monotonic()
        self._ways: tuple[Callable[[RunRecord, asyncio.Event], Awaitable[None]], ...] = (
            self._success,
            self._success,
            self._cancel,
            self._supersede,
            self._supersede,
            self._enqueue,
            self._by_status,
        )

    async def fill(self) -> None:
        while len(self._going) < self._size:
            await self._begin()

    async def _begin(self) -> None:
        thread_id = self._idle.pop(self._random.randrange(len(self._idle)))
        await self._launch(thread_id, "reject")

    async def _launch(self, thread_id: str, strategy: str) -> RunRecord:
        record = await self.manager.create_or_reject(
            thread_id, "agent", kwargs={"input": "x" * 100}, multitask_strategy=strategy
        )
        self._launch_task(record)
        return record

    def _launch_task(self, record: RunRecord) -> None:
        may_end = asyncio.Event()

        async def agent(ctx: RunContext) -> dict[str, Any]:
            if ctx.fence % 3 == 0:
                await ctx.save({"turn": ctx.fence, "text": "y" * 200})
            ctx.progress(total_tokens=ctx.fence)
            await may_end.wait()
            if ctx.fence % 17 == 0:
                raise ValueError("this one fails")
            return {"fence": ctx.fence}

        self.manager.launch(record, agent)
        self._going[record.run_id] = (record, may_end)

    async def step(self) -> None:
        """End one run and begin another."""
        record, may_end = self._going[self._random.choice(list(self._going))]
        await self._random.choice(self._ways)(record, may_end)
        await self.fill()

    async def _settled(self, record: RunRecord) -> None:
        self._going.pop(record.run_id, None)
        with suppress(CoordinatorError):  # it failed, on purpose
            await self.manager.wait(record.run_id, timeout=30)
        self.ended += 1

    async def _success(self, record: RunRecord, may_end: asyncio.Event) -> None:
        may_end.set()
        await self._settled(record)
        self._idle.append(record.thread_id)

    async def _cancel(self, record: RunRecord, may_end: asyncio.Event) -> None:
        action = self._random.choice(("interrupt", "rollback"))
        await self.manager.cancel(record.run_id, action=action, wait=30)
        await self._settled(record)
        self._idle.append(record.thread_id)

    async def _supersede(self, record: RunRecord, may_end: asyncio.Event) -> None:
        await self._launch(record.thread_id, self._random.choice(("interrupt", "rollback")))
        await self._settled(record)

    async def _enqueue(self, record: RunRecord, may_end: asyncio.Event) -> None:
        await self._launch(record.thread_id, "enqueue")
        may_end.set()
        await self._settled(record)

    async def _by_status(self, record: RunRecord, may_end: asyncio.Event) -> None:
        """A caller without a task uses the thread that becomes free."""
        await self._success(record, may_end)
        run = await self.manager.create_or_reject(record.thread_id, kwargs={"q": 1})
        await self.manager.set_status(run.run_id, RunStatus.running)
        await self.manager.update_run_completion(run.run_id, total_tokens=5, status="success")
        await self.manager.set_status(run.run_id, RunStatus.success)
        self.ended += 1

    async def finish(self) -> None:
        for record, may_end in list(self._going.values()):
            may_end.set()
            await self._settled(record)

    async def held(self) -> Held:
        await asyncio.sleep(0)  # eviction and the drainer of sockets finish their pending work
        gc.collect()
        registry = assembly_of(self.manager).shared.registry
        maps = {what: len(things) for what, things in bookkeeping_of(self.manager).items()}
        maps["outbox"] = self.manager.worker.pending_writes
        return Held(
            at=round(time.monotonic() - self._began, 1),
            rss=_resident(),
            tasks=len(asyncio.all_tasks()),
            files=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - one call, so that its own descriptor counts once
            redis_keys=int(self._server.command("DBSIZE").strip(b":\r\n")),
            redis_connections=self._server.command("CLIENT", "LIST").count(b"\nid=") + 1,
            runs_in_memory=len(records_of(self.manager)),
            unsettled=len(registry.unsettled()),
            waiting=maps,
            ended=self.ended,
        )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


@asynccontextmanager
async def churning(
    folder: Path, server: ValkeyServer, *, namespace: str, running: int, **overrides: Any
) -> AsyncGenerator[Churn]:
    settings = Settings(
        store=f"sqlite:///{folder / 'runs.db'}", redis=server.url, namespace=namespace, grace=5.0, **overrides
    )
    async with open_coordinator(settings=settings, hooks=()) as manager:
        yield Churn(manager, server, running=running)
