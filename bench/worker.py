"""A worker process of the benchmarks, driven by JSON lines: one command in, one answer out.

{"do": "hold", "thread": t}      admit and launch a run that waits for its cancel -> run id
{"do": "stopped", "run": r}      -> CLOCK_MONOTONIC at which the run's task saw its cancel
{"do": "cancel", "run": r}       -> CLOCK_MONOTONIC before the call, and after its acknowledgement
{"do": "saturate", "at_once": n} runs without pause, until the process is killed
{"do": "hold_many", "runs": n}   -> when all of them run
{"do": "emit", "thread": t, "events": n, "every": s}
                                 admit and launch a run that emits when -> run id
{"do": "counters"}               -> store commits and reads so far
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.throughput import by_status
from coordinator import RunContext, RunManager, RunRecord, open_coordinator

QUIET = 0.02  # s; the answer wakes the driver, which must not take a core from the owner just now


class Commands:
    def __init__(self, manager: RunManager) -> None:
        self._manager = manager
        self._stopped: dict[str, asyncio.Future[float]] = {}
        self._busy: list[asyncio.Task[None]] = []

    async def hold(self, thread: str) -> str:
        run = await self._manager.create_or_reject(thread, "agent", kwargs={"input": {}})
        self._stopped[run.run_id] = asyncio.get_running_loop().create_future()
        running = asyncio.Event()

        async def wait_for_cancel(ctx: RunContext) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self._stopped[ctx.run.run_id].set_result(time.monotonic())
                raise

        self.launch(run, wait_for_cancel)
        await running.wait()
        return run.run_id

    def launch(self, run: RunRecord, step: Callable[[RunContext], Awaitable[None]]) -> None:
        self._manager.launch(run, step)

    async def stopped(self, run: str) -> float:
        return await self._stopped[run]

    async def cancel(self, run: str) -> list[float]:
        began = time.monotonic()
        await self._manager.cancel(run)
        acknowledged = time.monotonic()
        await asyncio.sleep(QUIET)
        return [began, acknowledged]

    async def saturate(self, at_once: int) -> bool:
        async def without_pause(thread: str) -> None:
            while True:
                await by_status(self._manager, thread)

        names = (f"busy-{self._manager.worker.epoch}-{number}" for number in range(at_once))
        self._busy = [asyncio.create_task(without_pause(name)) for name in names]
        return True

    async def hold_many(self, runs: int) -> bool:
        numbers = itertools.count(len(self._stopped))
        await asyncio.gather(*(self.hold(f"held-{next(numbers)}") for _ in range(runs)))
        return True

    async def emit(self, thread: str, events: int, every: float) -> str:
        """It begins a moment later: who is answered follows it first."""
        run = await self._manager.create_or_reject(thread, "agent")

        async def emitting(ctx: RunContext) -> None:
            await asyncio.sleep(0.3)
            for _ in range(events):
                await ctx.emit("custom", {"at": time.monotonic_ns(), "content": "some words"})
                await asyncio.sleep(every)

        self._manager.launch(run, emitting)
        return run.run_id

    async def counters(self) -> dict[str, int]:
        return self._manager.worker.store_counters()


async def main(store: str, redis: str | None, kind: type[Commands] = Commands, **options: Any) -> None:
    async with open_coordinator(store, redis=redis, grace=0, force_after=1.0, **options) as manager:
        commands = kind(manager)
        loop = asyncio.get_running_loop()
        print(json.dumps({"ready": manager.worker.epoch}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command: dict[str, Any] = json.loads(line)
            answer = await getattr(commands, command.pop("do"))(**command)
            print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
