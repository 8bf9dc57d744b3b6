"""A worker process of the version that PYTHONPATH names: it executes Python code of its parent.

    python tests/roll/worker.py '{"label": …, "settings": {…}}'

Each line on stdin is {"id", "code", "values"}: the body of an async function with `m` (the manager), helpers
of this module and the values by name. Each line on stdout is {"id", "answer"} or {"id", "error", "text"}.
A store that refuses the worker is the error with id 0. Only what is in both versions may be used here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from dataclasses import replace
from typing import Any

from coordinator import Outcome, RunContext, Settings, open_coordinator
from coordinator.gateway import GatewaySettings, create_gateway
from stores.crons import CronRow
from stores.errors import StoreRefused

SETUP = json.loads(sys.argv[1])
LABEL: str = SETUP["label"]
gates: dict[str, asyncio.Event] = {}
begun: dict[str, asyncio.Event] = {}
stops: list[str] = []


def event(events: dict[str, asyncio.Event], run_id: str) -> asyncio.Event:
    return events.setdefault(run_id, asyncio.Event())


async def agent(ctx: RunContext) -> Any:
    """Saves and emits as its kwargs request, waits for its gate unless `go` is set, returns its worker."""
    kwargs = ctx.run.kwargs
    if "save" in kwargs:
        await ctx.save(kwargs["save"])
    if "emit" in kwargs:
        await ctx.emit("values", kwargs["emit"])
    event(begun, ctx.run.run_id).set()
    try:
        if not kwargs.get("go"):
            await event(gates, ctx.run.run_id).wait()
    except asyncio.CancelledError:
        stops.append(ctx.run.run_id)
        raise
    return Outcome(result={"by": LABEL})  # what was saved stays


class Helpers:
    """What the code of checks may call."""

    def __init__(self, manager: Any) -> None:
        self.m = manager

    async def admit(self, thread: str, strategy: str = "reject", **fields: Any) -> str:
        """Admitted and launched."""
        run = await self.m.create_or_reject(thread, "agent", multitask_strategy=strategy, **fields)
        self.m.launch(run)
        return run.run_id

    async def begin(self, thread: str, strategy: str = "reject", **fields: Any) -> str:
        """Its agent has begun."""
        run_id = await self.admit(thread, strategy, **fields)
        await event(begun, run_id).wait()
        return run_id

    def release(self, run_id: str) -> None:
        event(gates, run_id).set()

    async def row(self, run_id: str) -> dict[str, Any]:
        explained = await self.m.runs.explain(run_id)
        run = explained.run
        return {
            "status": run.status.value,
            "phase": explained.phase.value,
            "cause": run.cancel_cause and run.cancel_cause.value,
            "settled": run.settled_at is not None,
            "position": explained.position,
            "steps": [step.what for step in explained.transitions],
        }


async def answer(helpers: Helpers, line: str) -> None:
    request = json.loads(line)
    body = textwrap.indent(request["code"], "    ")
    names: dict[str, Any] = {
        "CronRow": CronRow,
        "replace": replace,
        "event": event,
        "begun": begun,
        "stops": stops,
    }
    for name in ("admit", "begin", "release", "row", "m"):
        names[name] = getattr(helpers, name)
    names |= request["values"]
    try:
        exec(f"async def request():\n{body}", names)  # noqa: S102 - the parent's own code
        reply = {"answer": await names["request"]()}
    except Exception as error:  # noqa: BLE001 - it is the parent's to judge
        reply = {"error": type(error).__name__, "text": str(error)}
    send({"id": request["id"], **reply})


def send(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


async def main() -> None:
    gateway = GatewaySettings(cron_poll=0.2, webhook_poll=0.1, webhook_allow_private=True)
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with (
        open_coordinator(settings=Settings(**SETUP["settings"]), assistants={"agent": agent}) as manager,
        create_gateway(manager, settings=gateway).running(),
    ):
        helpers, tasks = Helpers(manager), set[asyncio.Task[None]]()
        send({"id": 0, "answer": helpers.m.worker.epoch})
        while line := await reader.readline():
            task = asyncio.create_task(answer(helpers, line.decode()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except StoreRefused as refused:
        send({"id": 0, "error": type(refused).__name__, "text": str(refused)})
        sys.exit(1)
