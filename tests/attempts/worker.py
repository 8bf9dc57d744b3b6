"""A worker that executes graphs until it is killed or drained, and admits runs of them."""

from __future__ import annotations

import asyncio
import json
import operator
import os
import random
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from coordinator import CoordinatorError, RunContext, RunManager, current_run, open_coordinator
from coordinator.langgraph import GraphAssistant, postgres_states, sqlite_states
from coordinator.telemetry import Event
from coordinator.telemetry.events import RunContinued
from coordinator.workers.signals import draining_on_signals

STEPS = 6
GRACE = 20.0
RETRIES = 1000
CLIENTS = 2
"""Of each worker."""
ROLLED_BACK = 0.15
"""Share of continued runs that are rolled back."""


class Plan(NamedTuple):
    """`step`: the longest time (s) of a step. The worker admits no more runs when `stop` exists."""

    store: str
    folder: Path
    step: float

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def stop(self) -> Path:
        return self.folder / "stop"


class State(TypedDict, total=False):
    log: Annotated[list[list[Any]], operator.add]


class Journal:
    """Lines of JSON, each one write of a file that all workers append to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **words: Any) -> None:
        os.write(self._file, f"{json.dumps(words)}\n".encode())


def walk(plan: Plan, journal: Journal) -> Any:
    """A graph of STEPS nodes. Each waits, and appends the run and its number to the log."""

    def step(number: int) -> Any:
        async def node(state: State) -> State:
            run_id = cast("RunContext", current_run.get()).run.run_id
            journal.note(begun=number, run=run_id, pid=os.getpid())
            await asyncio.sleep(random.uniform(0, plan.step))
            journal.note(done=number, run=run_id, pid=os.getpid())
            return {"log": [[run_id, number]]}

        return node

    builder: Any = StateGraph(State)
    for number in range(STEPS):
        builder.add_node(f"n{number}", step(number))
    for source, target in pairwise((START, *(f"n{number}" for number in range(STEPS)))):
        builder.add_edge(source, target)
    return builder


def assistant(plan: Plan, journal: Journal) -> GraphAssistant:
    on_server = plan.store.startswith("postgresql")
    states = (
        postgres_states(plan.store)
        if on_server
        else sqlite_states(plan.folder / "checkpoints.db", synchronous="NORMAL")
    )
    return GraphAssistant(walk(plan, journal), states, name="walk", retries=RETRIES)


def opened(plan: Plan, journal: Journal, **given: Any) -> Any:
    settings: dict[str, Any] = {
        "sweep": 0.3,
        "tick": 0.3,
        "short_tick": 0.1,
        "renew": 1.0,
        "lease_ttl": 10.0,
        "lease_margin": 2.0,
        "grace": GRACE,
        **given,
    }
    if not plan.store.startswith("postgresql"):
        settings["sqlite_synchronous"] = "NORMAL"
    return open_coordinator(plan.store, assistants={"walk": assistant(plan, journal)}, **settings)


class Clients:
    def __init__(self, manager: RunManager, plan: Plan, journal: Journal) -> None:
        self._manager, self._plan, self._journal = manager, plan, journal
        self.rolling_back = set[asyncio.Task[None]]()

    async def run(self, number: int) -> None:
        """Admits one run after another on a thread of its own."""
        thread = f"{os.getpid()}-{number}"
        while not (self._plan.stop.exists() or self._manager.worker.draining):
            with suppress(CoordinatorError):
                run = await self._manager.create_or_reject(thread, "walk", kwargs={"input": {"log": []}})
                self._manager.launch(run)
                await self._manager.wait(run.run_id)
            await asyncio.sleep(0.01)

    def hook(self, event: Event) -> None:
        if isinstance(event, RunContinued):
            self._journal.note(continued=event.attempt, run=event.run_id, pid=os.getpid())
            if random.random() < ROLLED_BACK:
                task = asyncio.get_running_loop().create_task(self._roll_back(event.run_id))
                self.rolling_back.add(task)
                task.add_done_callback(self.rolling_back.discard)

    async def _roll_back(self, run_id: str) -> None:
        await asyncio.sleep(random.uniform(0, 2 * self._plan.step))
        with suppress(CoordinatorError):
            await self._manager.cancel(run_id, action="rollback", wait=30)


async def work(plan: Plan) -> None:
    """Returns when it is drained, or has no more to do."""
    journal, clients = Journal(plan.journal), list[Clients]()

    def hook(event: Event) -> None:
        for one in clients:
            one.hook(event)

    async with opened(plan, journal, hooks=(hook,)) as manager:
        with draining_on_signals(manager.worker) as shutdown:
            clients.append(Clients(manager, plan, journal))
            journal.note(ready=True, pid=os.getpid())
            loads = [asyncio.create_task(clients[0].run(number)) for number in range(CLIENTS)]
            drained = asyncio.create_task(shutdown.drained.wait())
            admitted = asyncio.create_task(asyncio.wait(loads))
            await asyncio.wait((admitted, drained), return_when=asyncio.FIRST_COMPLETED)
            while not shutdown.requested.is_set() and await _busy(manager):  # noqa: ASYNC110 - in any process
                await asyncio.sleep(0.2)
            for task in (*loads, admitted, drained, *clients[0].rolling_back):
                task.cancel()


async def _busy(manager: RunManager) -> bool:
    return bool(await manager.store.runs(in_flight=True, limit=1))
