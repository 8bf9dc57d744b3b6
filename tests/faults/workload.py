"""What a worker does while faults strike: everything that callers do, at random, all of it recorded."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from coordinator import CoordinatorError, RunContext, RunFailed, RunManager, RunRecord, StoreUnavailable
from coordinator.errors import LeaseLost
from coordinator.schemas import Json
from stores.errors import StoreError
from stores.rows import Ownership
from tests.faults.mortal import Points
from tests.histories import Recorder
from tests.support.inside import assembly_of
from tests.support.kit import Body, failed_group
from tests.support.waiting import wait_until

CLIENTS = 3
PAUSE = 0.08  # s between two calls of one client, on average
THREADS = 10
THREAD_LIFE = 2.5  # s; then other threads are used, so that no thread's history grows long
BACK_OFF = 0.5  # s; a call whose outcome is unknown doubles what a history may mean, so not too many of them
SLOW = 3.0  # s that a client waits for anything

SCRIBBLERS = 3
REFUSALS = 8
"""That a scribbler takes before it gives up."""

STRATEGIES = {"reject": 30, "enqueue": 25, "interrupt": 15, "rollback": 30}


async def waited_for(seconds: float) -> None:
    """As agents do that poll: with a time-out that is over again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)


class Agents:
    """The code of the runs. What a run does is in its kwargs."""

    def __init__(self, manager: RunManager, record: Recorder, points: Points) -> None:
        self._manager, self._record, self._points = manager, record, points
        self.scribbling = False
        self.written = set[str]()
        """Scribblers that have saved something."""

    async def scribbler(self, ctx: RunContext) -> None:
        """Saves and emits without a pause, and continues for a while after a refusal or a cancel. Then it
        tries the store itself, past the checks of its own worker."""
        run, epoch, number, refused = ctx.run, self._manager.worker.epoch, 0, 0
        ids: dict[str, Any] = {"run": run.run_id, "thread": run.thread_id, "epoch": epoch, "fence": ctx.fence}
        own = Ownership(run.run_id, run.thread_id, epoch, ctx.fence)
        end = "success"
        self._record.step("began", **ids, values=ctx.values)

        async def past_the_checks(values: Json) -> None:
            await self._manager.store.save(own, values)

        async def scribble(save: Callable[[Json], Awaitable[None]]) -> None:
            nonlocal number, refused
            number += 1
            values = {"by": run.run_id, "epoch": epoch, "n": number}
            try:
                with self._record.call("save", **ids, values=values):
                    await save(values)
                self.written.add(run.run_id)
            except CoordinatorError:
                refused += 1
            try:
                with self._record.call("emit", **ids):
                    await ctx.emit("custom", number)
            except CoordinatorError:
                refused += 1

        try:
            while self.scribbling and refused < REFUSALS:
                await scribble(ctx.save)
        except asyncio.CancelledError:
            end = "cancelled"
            self._record.step("cancelled", **ids)
            raise
        finally:
            if end == "cancelled" or refused:
                for save in (ctx.save, past_the_checks):
                    await scribble(save)
            self._record.step("stopped", **ids, outcome=end)

    async def agent(self, ctx: RunContext) -> Any:
        """Saves, lasts, may leave a thread job behind, may be slow to stop, may return values."""
        run, wish, record = ctx.run, ctx.run.kwargs, self._record
        epoch = self._manager.worker.epoch
        ids: dict[str, Any] = {"run": run.run_id, "thread": run.thread_id, "epoch": epoch, "fence": ctx.fence}
        end: dict[str, Any] = {"outcome": "error"}
        record.step("began", **ids, values=ctx.values)
        job = None
        try:
            if (lasts := wish.get("job")) is not None:
                job = asyncio.get_running_loop().run_in_executor(None, time.sleep, lasts)
                ctx.track(job)
            if wish.get("group"):
                await failed_group(Body(0))
            for number in range(wish["steps"]):
                if wish.get("polls"):
                    await waited_for(wish["pause"])
                if number in wish["saves"]:
                    values = {"by": run.run_id, "epoch": epoch, "n": number}
                    with record.call("save", **ids, values=values):
                        await ctx.save(values)
                await asyncio.sleep(wish["pause"])
                ctx.check()
                record.step("step", **ids)
            end = {"outcome": "success"}
            if not wish["returns"]:
                return None
            values = {"by": run.run_id, "epoch": epoch, "n": -1}
            end["values"] = values
            return values
        except asyncio.CancelledError:
            end = {"outcome": "cancelled"}
            record.step("cancelled", **ids)
            self._points.reach("unwinding")
            await asyncio.sleep(wish["unwinds"])
            raise
        finally:
            if job is None or job.done():
                record.step("stopped", **ids, **end)
            else:
                job.add_done_callback(lambda _: record.step("stopped", **ids, **end))

    async def old_style(self, run: RunRecord) -> None:
        """A caller's own task, as gateways that know nothing of `launch` have it."""
        manager, record = self._manager, self._record
        await manager.set_status(run.run_id, "running")
        if run.abort_event.is_set():
            return
        thread = await manager.store.thread(run.thread_id)
        row = (await manager.runs.explain(run.run_id)).run
        if thread is None or row.owner_epoch is None or not (row.holds_thread and row.open):
            return
        ids: dict[str, Any] = {
            "run": run.run_id,
            "thread": run.thread_id,
            "epoch": row.owner_epoch,
            "fence": row.fence,
        }
        record.step("began", **ids, values=thread.values)
        end = "error"
        try:
            await asyncio.sleep(run.kwargs["pause"])
            end = "success"
        except asyncio.CancelledError:
            end = "cancelled"
            record.step("cancelled", **ids)
            raise
        finally:  # before it is reported: a pause between the two must not look like a result from nowhere
            record.step("stopped", **ids, outcome=end)
        await manager.set_status(run.run_id, "success")


class Workload:
    """Clients of one worker. `stop` lets each finish the call that it is in."""

    def __init__(
        self, manager: RunManager, record: Recorder, points: Points, *, name: str, prefix: str
    ) -> None:
        self._manager, self._record = manager, record
        self._agents = Agents(manager, record, points)
        self._name, self._prefix = name, prefix
        self._rng = random.Random(name)
        self._known: deque[tuple[str, str]] = deque(maxlen=8)
        self._going, self._scribblers = False, 0
        self._clients: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        self._going = True
        self._clients = [asyncio.create_task(self._client(), name=f"client {at}") for at in range(CLIENTS)]

    async def stop(self) -> None:
        """Returns when no client is in a call any more."""
        self._going = self._agents.scribbling = False
        await asyncio.gather(*self._clients)

    async def _client(self) -> None:
        rng = self._rng
        calls: dict[Callable[[], Awaitable[object]], int] = {
            self.admit: 45,
            self.admit_old_style: 6,
            self.admit_with_key: 7,
            self.cancel: 24,
            self.wait: 8,
            self.get: 8,
            self.learn: 8,
        }
        while self._going:
            call = rng.choices(list(calls), list(calls.values()))[0]
            try:
                async with asyncio.timeout(SLOW):
                    await call()
            except (StoreUnavailable, TimeoutError):  # recorded with the call
                await asyncio.sleep(BACK_OFF)
            except CoordinatorError:
                pass  # the same
            except Exception:  # noqa: BLE001 - whatever it is, the report shows it
                self._record.fault("unexpected", worker=self._name, trace=traceback.format_exc())
            await asyncio.sleep(rng.expovariate(1 / PAUSE))

    async def scribble(self) -> None:
        """Runs that write without a pause, until `put_down`. Each has a thread of its own. Returns when all
        of them write."""
        self._agents.scribbling = True
        before = len(self._agents.written)
        for _ in range(SCRIBBLERS):
            self._scribblers += 1
            run = await self._admit(f"scribbler-{self._scribblers}-{self._name}", "reject")
            self._manager.launch(run, self._agents.scribbler)
        await wait_until(
            lambda: len(self._agents.written) >= before + SCRIBBLERS, description="all scribblers write"
        )

    def put_down(self) -> None:
        self._agents.scribbling = False

    def _thread(self) -> str:
        age = int(time.monotonic() / THREAD_LIFE)
        return f"{self._prefix}-{age}-{self._rng.randrange(THREADS)}"

    def _is_ours(self, thread: str) -> bool:
        """Clients leave scribblers and probes alone."""
        return thread.startswith(self._prefix)

    def _wish(self) -> dict[str, Any]:
        rng = self._rng
        steps = rng.randint(1, 3)
        return {
            "steps": steps,
            "saves": [number for number in range(steps) if rng.random() < 0.6],
            "pause": rng.choice((0.0, 0.01, 0.03, 0.08)),
            "unwinds": rng.choice((0.0, 0.0, 0.02, 0.08)),
            "returns": rng.random() < 0.3,
            **({"job": 0.03} if rng.random() < 0.1 else {}),
            **({"group": True} if rng.random() < 0.3 else {}),
            **({"polls": True} if rng.random() < 0.3 else {}),
        }

    async def admit(self) -> None:
        strategy = self._rng.choices(list(STRATEGIES), list(STRATEGIES.values()))[0]
        run = await self._admit(self._thread(), strategy)
        self._manager.launch(run, self._agents.agent)

    async def admit_with_key(self) -> None:
        """Two callers use the same key, here or on another worker."""
        thread = self._thread()
        body: dict[str, Any] = {"steps": 1, "saves": [], "pause": 0.01, "unwinds": 0, "returns": False}
        run = await self._admit(thread, "enqueue", f"{thread}/{self._rng.randrange(2)}", body)
        if not run.already_admitted:
            self._manager.launch(run, self._agents.agent)

    async def _admit(
        self, thread: str, strategy: str, key: str | None = None, wish: dict[str, Any] | None = None
    ) -> RunRecord:
        shown: dict[str, Any] = {"strategy": strategy} | ({} if key is None else {"key": key})
        with self._record.call("admit", thread=thread, **shown) as call:
            run = await self._manager.create_or_reject(
                thread, multitask_strategy=strategy, kwargs=wish or self._wish(), idempotency_key=key
            )
            call.answer(run=run.run_id)
        if self._is_ours(run.thread_id):
            self._known.append((run.thread_id, run.run_id))
        return run

    async def admit_old_style(self) -> None:
        run = await self._admit(self._thread(), "reject")
        run.task = asyncio.create_task(self._agents.old_style(run))
        self._tasks.add(run.task)
        run.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or isinstance(error := task.exception(), (LeaseLost, StoreError)):
            return  # what the caller's run then comes to is judged by its history
        if isinstance(error, Exception):
            self._record.fault("old style failed", worker=self._name, error=repr(error))

    async def cancel(self) -> None:
        if not self._known:
            return
        thread, run = self._rng.choice(self._known)
        action = self._rng.choice(("interrupt", "interrupt", "rollback"))
        wait = self._rng.choice((None, None, SLOW))
        shown: dict[str, Any] = {"action": action} | ({} if wait is None else {"wait": True})
        with self._record.call("cancel", thread=thread, run=run, **shown) as call:
            call.answer(result=await self._manager.cancel(run, action=action, actor=self._name, wait=wait))

    async def wait(self) -> None:
        if not self._known:
            return
        thread, run = self._rng.choice(self._known)
        with self._record.call("wait", thread=thread, run=run) as call:
            try:
                await self._manager.wait(run, timeout=SLOW)
            except RunFailed as failed:
                call.answer(status=failed.status)
            else:
                call.answer(status=(await self._manager.runs.explain(run)).run.status.value)

    async def get(self) -> None:
        if not self._known:
            return
        thread, run = self._rng.choice(self._known)
        with self._record.call("get", thread=thread, run=run) as call:
            record = await self._manager.get(run, raise_on_store_error=True)
            entry = assembly_of(self._manager).shared.registry.entry(run)
            if entry is not None and entry.elsewhere:
                call.unknown("the record of a lost run shows error, whatever became of the run")
            elif record is None:
                call.answer(status=None, source="store")
            else:
                source = "store" if record.store_only else "memory"
                call.answer(status=record.status.value, source=source)

    async def learn(self) -> None:
        """Get to know runs of other workers, so as to cancel them and wait for them."""
        for row in await self._manager.runs.recent(in_flight=True, limit=8):
            if self._is_ours(row.thread_id):
                self._known.append((row.thread_id, row.run_id))
