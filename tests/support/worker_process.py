"""A gateway worker as a process of its own, driven by lines of JSON. Its argument is one as well, with fields
of Settings: {"store": …, "redis": …}.

A line on stdin is {"id": n, "do": name, …}, its answer {"id": n, "ok": …} or {"id": n, "error": class}.
A line without an id reports an event: {"event": "started" | "cancelled" | "stopped", "run": …, "at": …}.
`at` is the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from contextlib import suppress
from typing import Any

from coordinator import Event, Follower, Gap, RunContext, RunManager, Settings, open_coordinator
from coordinator.event_log import BEGINNING, Entry, EventId
from coordinator.workers.signals import draining_on_signals
from tests.support.inside import assembly_of


def report(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class Program:
    def __init__(self, manager: RunManager) -> None:
        self.manager = manager
        self.contexts: dict[str, RunContext] = {}
        self.may_end: dict[str, asyncio.Event] = {}
        self.began = asyncio.Condition()
        self.following: set[asyncio.Task[None]] = set()

    async def agent(self, ctx: RunContext) -> Any:
        """Behaves as its kwargs define: saves first, unwinds for some time, ignores cancels."""
        run_id, wish = ctx.run.run_id, ctx.run.kwargs
        self.contexts[run_id] = ctx
        released = self.may_end.setdefault(run_id, asyncio.Event())
        if (saves := wish.get("saves")) is not None:
            await ctx.save(saves)
        async with self.began:
            self.began.notify_all()
        report(event="started", run=run_id, at=time.monotonic(), fence=ctx.fence, values=ctx.values)
        try:
            if (lasts := wish.get("lasts", 0 if "returns_bytes" in wish else None)) is not None:
                await asyncio.sleep(lasts)
            else:
                await released.wait()
            return "x" * size if (size := wish.get("returns_bytes")) else wish.get("returns")
        except asyncio.CancelledError:
            report(event="cancelled", run=run_id, at=time.monotonic(), cause=ctx.abort and ctx.abort.cause)
            while wish.get("deaf"):
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            await asyncio.sleep(wish.get("unwinds", 0))
            raise
        finally:
            report(event="stopped", run=run_id, at=time.monotonic())

    async def admit(
        self,
        thread: str,
        strategy: str = "reject",
        *,
        assistant: str | None = None,
        launch: bool = True,
        after: float | None = None,
        **wish: Any,
    ) -> str:
        run = await self.manager.create_or_reject(
            thread, assistant, multitask_strategy=strategy, kwargs=wish, after_seconds=after
        )
        if launch:
            self.manager.launch(run, self.agent)
        return run.run_id

    async def admit_at(self, thread: str, moment: float) -> str:
        """As near to that moment as the clock allows."""
        await asyncio.sleep(max(0.0, moment - time.monotonic() - 0.002))
        while time.monotonic() < moment:
            pass
        return await self.admit(thread)

    async def many(self, count: int, prefix: str) -> None:
        await asyncio.gather(*(self.admit(f"{prefix}{at}") for at in range(count)))
        async with self.began:
            await self.began.wait_for(lambda: len(self.contexts) >= count)

    async def workers(self) -> dict[int, str]:
        return {row.epoch: row.state.value for row in await self.manager.worker.fleet(alive_only=False)}

    async def occupy(self, seconds: float) -> None:
        """A job in a thread pool, for which the interpreter waits at its end."""
        asyncio.get_running_loop().run_in_executor(None, time.sleep, seconds)

    async def cancel(self, run: str, **options: Any) -> bool:
        return await self.manager.cancel(run, **options)

    async def block(self, seconds: float) -> None:
        """What no coroutine may do: the event loop stands still."""
        report(event="blocking", at=time.monotonic())
        time.sleep(seconds)  # noqa: ASYNC251 - the point of it

    async def copy(self, path: str, to: str) -> None:
        """As a backup does: read a file of the store in this very process, and close it."""
        await asyncio.to_thread(shutil.copyfile, path, to)

    async def scribble(self, run: str) -> None:
        """Write all that a run may write, until it is refused."""
        ctx, number = self.contexts[run], 0
        while True:
            number += 1
            await ctx.save({"n": number})
            ctx.progress(total_tokens=number)
            await self.manager.update_run_completion(run, llm_call_count=number)

    async def end(self, run: str) -> None:
        self.may_end.setdefault(run, asyncio.Event()).set()

    async def save(self, run: str, values: Any) -> None:
        await self.contexts[run].save(values)

    async def emit(self, run: str, data: list[Any]) -> None:
        for item in data:
            await self.contexts[run].emit("custom", item)

    async def follow(self, run: str) -> None:
        """Reports `received` and `gap`, and at last `end`."""
        followed = await self.manager.follow(run).__aenter__()
        self.following.add(asyncio.create_task(self._follow(followed)))

    async def _follow(self, followed: Follower) -> None:
        async for item in followed:
            if isinstance(item, Event):
                report(event="received", run=followed.run_id, data=item.data)
            elif isinstance(item, Gap):
                report(event="gap", run=followed.run_id, after=item.after, before=item.before)
            else:
                report(event="end", run=item.run_id, status=item.status.value, complete=item.complete)

    async def events(self, run: str) -> list[Any]:
        return [item.data for item in await self.manager.events(run) if isinstance(item, Event)]

    async def force_append(self, run: str) -> str:
        """What a zombie would do whose own checks had failed: append with its old fence."""
        ctx = self.contexts[run]
        return await self._append(ctx.run.thread_id, run, EventId(ctx.fence, 1000), "zombie")

    async def take_over(self, run: str, fence: int = 1000) -> str:
        """Append under a newer fence, past the slot."""
        row = await self.manager.store.row(run)
        assert row is not None
        return await self._append(row.thread_id, run, EventId(fence, 1), "taken over")

    async def _append(self, thread: str, run: str, event_id: EventId, data: str) -> str:
        entry = Entry(event_id, "custom", json.dumps(data), BEGINNING)
        return (await assembly_of(self.manager).shared.event_log.append(thread, run, entry)).value

    async def wait(self, run: str, timeout: float = 10) -> Any:
        return await self.manager.wait(run, timeout=timeout)

    async def inflight(self, thread: str) -> bool:
        return await self.manager.has_inflight(thread)

    async def reconcile(self, error: str) -> list[str]:
        return [run.run_id for run in await self.manager.reconcile_orphaned_inflight_runs(error=error)]

    async def epoch(self) -> int:
        return self.manager.worker.epoch

    async def connectivity(self) -> str:
        return self.manager.worker.connectivity.value

    async def status(self, run: str) -> str | None:
        record = await self.manager.get(run)
        return None if record is None else record.status.value

    async def counts(self) -> dict[str, int]:
        """Returns the numbers of reads and commits of this worker's store so far."""
        store: Any = self.manager.store
        return {"reads": store.reads, "commits": store.commits}

    async def answer(self, number: int, do: str, **arguments: Any) -> None:
        try:
            report(id=number, ok=await getattr(self, do)(**arguments))
        except Exception as error:  # noqa: BLE001 - the test checks it
            report(id=number, error=type(error).__name__, text=str(error))


async def obey(program: Program) -> None:
    """Executes the calls that arrive on stdin, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()

    async def serve() -> None:
        while line := await reader.readline():
            call = json.loads(line)
            task = asyncio.create_task(program.answer(call.pop("id"), call.pop("do"), **call))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    with draining_on_signals(program.manager.worker) as shutdown:
        report(event="ready", epoch=program.manager.worker.epoch)
        await shutdown.serving(serve())


async def main() -> None:
    programs: list[Program] = []

    async def agent(ctx: RunContext) -> Any:
        return await programs[0].agent(ctx)

    settings = Settings(**json.loads(sys.argv[1]))
    async with open_coordinator(settings=settings, assistants={"agent": agent}) as manager:
        programs.append(Program(manager))
        await obey(programs[0])


def run() -> None:
    asyncio.run(main())
