"""A worker of the fault suite: `tests.support.worker_process` with a workload, a history and places to die.

Forked from a server that has imported everything (`multiprocessing`'s forkserver), so that a new one is
there in some 50 ms. Commands come on stdin, answers and events go to stdout, as there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coordinator import RunManager, Settings
from coordinator.telemetry.events import ConnectivityChanged, Event, WorkerFenced, WorkerRegistered
from tests.faults.mortal import Clock, Points, open_mortal
from tests.faults.workload import Workload
from tests.histories import Recorder
from tests.support.worker_process import Program, obey, report


class FaultProgram(Program):
    def __init__(self, manager: RunManager, workload: Workload, points: Points, clock: Clock) -> None:
        super().__init__(manager)
        self._workload, self._points, self._clock = workload, points, clock

    async def work(self) -> None:
        self._workload.start()

    async def take_up(self) -> None:
        """Runs that write without a pause, until `put_down`."""
        await self._workload.scribble()

    async def put_down(self) -> None:
        self._workload.put_down()

    async def rest(self) -> None:
        await self._workload.stop()

    async def die(self, at: str) -> None:
        """Arms the point at which this worker dies."""
        self._points.armed = at

    async def jump(self, seconds: int) -> None:
        """Sets the wall clock of this process and its store ahead of the real time."""
        self._clock.jump = seconds

    async def cancel_now(self, run: str) -> dict[str, int]:
        called = time.monotonic_ns()
        assert await self.manager.cancel(run)
        return {"called": called, "answered": time.monotonic_ns()}

    async def round_trip(self, thread: str) -> float:
        """Returns the seconds to admit, execute and finish a run that does nothing."""
        began = time.monotonic()
        run = await self.manager.create_or_reject(thread, kwargs={"lasts": 0})
        await self.manager.launch(run, self.agent)
        await self.manager.wait(run.run_id, timeout=10)
        return time.monotonic() - began


def reporter(record: Recorder) -> Callable[[Event], None]:
    def report_event(event: Event) -> None:
        if isinstance(event, ConnectivityChanged):
            report(event="connectivity", value=event.connectivity, at=time.monotonic())
        elif isinstance(event, (WorkerRegistered, WorkerFenced)):
            record.sample(
                "registered" if isinstance(event, WorkerRegistered) else "fenced", epoch=event.epoch
            )
            report(event=type(event).__name__, epoch=event.epoch, at=time.monotonic())

    return report_event


async def serve(config: dict[str, Any]) -> None:
    wall = time.time_ns  # the real one: `Clock` replaces it
    points, clock = Points(), Clock()
    history = Path(config["folder"]) / f"{config['name']}.jsonl"
    settings = Settings(**config["settings"])
    with Recorder(config["name"], history, wall=lambda: wall() // 1000) as record:
        async with open_mortal(settings, points, clock, config["host"], reporter(record)) as manager:
            workload = Workload(manager, record, points, name=config["name"], prefix=config["prefix"])
            await obey(FaultProgram(manager, workload, points, clock))
            await workload.stop()


def run(config: dict[str, Any], commands: Connection, answers: Connection) -> None:
    """The forked process' main function."""
    log = os.open(Path(config["folder"]) / f"{config['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(commands.fileno(), 0)
    os.dup2(answers.fileno(), 1)
    os.dup2(log, 2)
    for end in (commands, answers):
        end.close()
    os.close(log)
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    logging.basicConfig(
        level=logging.WARNING, stream=os.fdopen(2, "w"), format="%(asctime)s %(message)s", force=True
    )
    asyncio.run(serve(config))
