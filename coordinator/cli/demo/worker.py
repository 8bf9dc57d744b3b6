"""A worker of the demo: does what stdin says and tells on stdout what happens. One JSON object a line.

    in    {"id": 1, "do": "admit", …}
    out   {"id": 1, "ok": {…}}
    out   {"id": 1, "error": {"type": …, "message": …, "active_run_id": …, "called": …}}
    out   {"moment": "started", "run_id": …, "at": …, …}         what the runs of this worker go through

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. The end of stdin ends
the worker, so none outlives the demo. SIGTERM drains it, and it answers until it is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from coordinator import ConflictError, CoordinatorError, RunContext, RunFailed, RunManager, open_coordinator
from coordinator.settings import Settings
from coordinator.workers.signals import draining_on_signals

Answer = dict[str, Any]


def say(message: Answer) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def moment(what: str, run_id: str, **more: Any) -> None:
    say({"moment": what, "run_id": run_id, "at": time.monotonic_ns(), **more})


async def scripted(ctx: RunContext) -> None:
    """The assistant of the demo. Its kwargs say what it does: `save` values, last `seconds`, and take
    `unwind` seconds to stop when it is cancelled."""
    script = ctx.run.kwargs
    run_id = ctx.run.run_id
    moment("started", run_id, values=ctx.values, fence=ctx.fence)
    try:
        if "save" in script:
            await ctx.save(script["save"])
            moment("saved", run_id)
        await asyncio.sleep(script.get("seconds", 0))
    except asyncio.CancelledError:
        moment("cancelled", run_id)
        await asyncio.sleep(script.get("unwind", 0))
        raise
    finally:
        moment("stopped", run_id)


class Worker:
    def __init__(self, manager: RunManager) -> None:
        self._manager = manager
        self._does: dict[str, Callable[[Answer], Awaitable[Answer]]] = {
            "admit": self.admit,
            "cancel": self.cancel,
            "wait": self.wait,
            "run": self.run,
            "thread": self.thread,
            "state": self.state,
        }

    async def answer(self, asked: Answer) -> None:
        try:
            say({"id": asked["id"], "ok": await self._does[asked["do"]](asked)})
        except (CoordinatorError, TimeoutError) as error:
            active = error.active_run_id if isinstance(error, ConflictError) else None
            told = {"type": type(error).__name__, "message": str(error), "active_run_id": active}
            say({"id": asked["id"], "error": {**told, "called": asked.get("called")}})

    async def admit(self, asked: Answer) -> Answer:
        """`at`: the moment at which to ask, for workers that are to ask together."""
        if (at := asked.get("at")) is not None:
            await asyncio.sleep(max(0.0, (at - time.monotonic_ns()) / 1e9))
        called = asked["called"] = time.monotonic_ns()
        record = await self._manager.create_or_reject(
            asked["thread"], "demo", multitask_strategy=asked["strategy"], kwargs=asked["script"]
        )
        answered = time.monotonic_ns()
        self._manager.launch(record, scripted)
        return {"run_id": record.run_id, "called": called, "answered": answered}

    async def cancel(self, asked: Answer) -> Answer:
        called = time.monotonic_ns()
        done = await self._manager.cancel(
            asked["run_id"], action=asked["action"], reason="demo", actor="demo", wait=asked["wait"]
        )
        return {"cancelled": done, "called": called, "answered": time.monotonic_ns()}

    async def wait(self, asked: Answer) -> Answer:
        """Until it has settled, however it ended."""
        failed: str | None = None
        try:
            await self._manager.wait(asked["run_id"], timeout=asked["timeout"])
        except RunFailed as error:
            failed = error.error
        at = time.monotonic_ns()
        return {**await self.run(asked), "failed": failed, "at": at}

    async def run(self, asked: Answer) -> Answer:
        row = (await self._manager.explain(asked["run_id"])).run
        return {
            "run_id": row.run_id,
            "status": row.status.value,
            "phase": row.phase.value,
            "epoch": row.owner_epoch,
            "fence": row.fence,
            "cause": row.cancel_cause and row.cancel_cause.value,
        }

    async def thread(self, asked: Answer) -> Answer:
        found = await self._manager.thread(asked["thread"])
        return {"values": found and found.values, "status": found and found.status}

    async def state(self, asked: Answer) -> Answer:
        del asked
        return {"epoch": self._manager.epoch, "connectivity": self._manager.connectivity.value}


async def serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    answering: set[asyncio.Task[None]] = set()
    async with open_coordinator(settings=settings) as manager:
        worker = Worker(manager)

        async def listen() -> None:
            while line := await lines.readline():
                task = asyncio.create_task(worker.answer(json.loads(line)))
                answering.add(task)
                task.add_done_callback(answering.discard)

        with draining_on_signals(manager) as departure:
            say({"ready": True, "epoch": manager.epoch})
            await departure.serving(listen())
            for task in answering:
                task.cancel()
            await manager.shutdown(timeout=0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    asyncio.run(serve(Settings(**json.loads(sys.argv[1]))))
