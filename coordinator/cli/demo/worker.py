"""A worker of the demo: executes calls from stdin, one after another, and reports on stdout. Lines of JSON:

    in    {"id": 1, "do": "admit", …}
    out   {"id": 1, "called": …, "answered": …, …}                           "refused": the name of an error
    out   {"moment": "started", "run_id": …, "at": …, "values": …}           a moment of a run

Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share. The end of stdin ends
the worker, so no worker outlives the demo.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from coordinator import CoordinatorError, RunContext, RunFailed, RunManager, open_coordinator

Message = dict[str, Any]  # Any: JSON; both ends are the demo's


class Worker:
    """`report` gets each moment of a run."""

    def __init__(self, manager: RunManager, report: Callable[[Message], None]) -> None:
        self._manager, self._report = manager, report

    async def answer(self, do: str, at: float = 0.0, **arguments: object) -> Message:
        """Calls the method `do`, not before `at`, so that several workers act at the same moment."""
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        called = time.monotonic()
        try:
            result: Message = await getattr(self, do)(**arguments)
        except (CoordinatorError, TimeoutError) as error:
            active = getattr(error, "active_run_id", None)
            result = {"refused": type(error).__name__, "message": str(error), "active_run_id": active}
        return {**result, "called": called, "answered": time.monotonic()}

    async def admit(self, thread: str, strategy: str, script: Message) -> Message:
        manager = self._manager
        run = await manager.create_or_reject(thread, "demo", multitask_strategy=strategy, kwargs=script)
        manager.launch(run, self._play)
        return {"run_id": run.run_id}

    async def cancel(self, run_id: str) -> Message:
        return {"cancelled": await self._manager.cancel(run_id, reason="demo", actor="demo", wait=10.0)}

    async def wait(self, run_id: str) -> Message:
        """Waits until the run has settled, whatever its end, and returns it."""
        with suppress(RunFailed):
            await self._manager.wait(run_id, timeout=15.0)
        return await self.run(run_id)

    async def run(self, run_id: str) -> Message:
        row = (await self._manager.runs.explain(run_id)).run
        return {"status": row.status, "cause": row.cancel_cause, "owner": [row.owner_epoch, row.fence]}

    async def thread(self, thread: str) -> Message:
        row = await self._manager.store.thread(thread)
        return {"values": row and row.values}

    async def state(self) -> Message:
        return {"connectivity": self._manager.worker.connectivity}

    async def _play(self, ctx: RunContext) -> None:
        """The assistant. Its kwargs: values to `save`, `seconds` to run, seconds to `unwind` on a cancel."""

        def moment(what: str) -> None:
            run_id, at = ctx.run.run_id, time.monotonic()
            self._report({"moment": what, "run_id": run_id, "at": at, "values": ctx.values})

        script = ctx.run.kwargs
        moment("started")
        try:
            if "save" in script:
                await ctx.save(script["save"])
                moment("saved")
            await asyncio.sleep(script.get("seconds", 0))
        except asyncio.CancelledError:
            moment("cancelled")
            await asyncio.sleep(script.get("unwind", 0))
            raise
        finally:
            moment("stopped")


async def serve() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    def report(message: Message) -> None:
        print(json.dumps(message), flush=True)

    async with open_coordinator() as manager:
        worker = Worker(manager, report)
        report({"id": 0, "epoch": manager.worker.epoch})
        while line := await lines.readline():
            call: Message = json.loads(line)
            report({"id": call.pop("id"), **await worker.answer(**call)})


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    asyncio.run(serve())
