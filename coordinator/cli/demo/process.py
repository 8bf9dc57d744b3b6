"""The demo's side of a worker process: ask it, hear what its runs go through, kill it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.cli.failures import CommandFailed

Answer = dict[str, Any]

_LINE_LIMIT = 1 << 20
_LEAVES_WITHIN = 5.0


class Refused(Exception):
    """The worker answered with an error of the library."""

    def __init__(self, worker: str, error: Answer) -> None:
        self.kind: str = error["type"]
        self.active_run_id: str | None = error.get("active_run_id")
        self.called: int | None = error.get("called")
        super().__init__(f"worker {worker}: {error['message']}")


@dataclass(frozen=True, slots=True)
class Moment:
    """`at`: nanoseconds of CLOCK_MONOTONIC, taken by the worker itself."""

    worker: str
    at: int
    about: Answer


class Moments:
    """What the runs of all workers went through, waited for by name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], asyncio.Future[Moment]] = {}
        self.latest: dict[str, tuple[str, str]] = {}
        """Of each run: worker and last moment, oldest run first."""

    def _future(self, run_id: str, what: str) -> asyncio.Future[Moment]:
        key = (run_id, what)
        if key not in self._known:
            self._known[key] = asyncio.get_running_loop().create_future()
        return self._known[key]

    def tell(self, worker: str, message: Answer) -> None:
        run_id, what = message["run_id"], message["moment"]
        self.latest[run_id] = (worker, what)
        future = self._future(run_id, what)
        if not future.done():
            future.set_result(Moment(worker, message["at"], message))

    async def of(self, run_id: str, what: str) -> Moment:
        return await asyncio.shield(self._future(run_id, what))


class WorkerProcess:
    """One incarnation. `name` is a letter, for people."""

    def __init__(self, name: str, moments: Moments, folder: Path) -> None:
        self.name = name
        self.epoch = 0
        self.connectivity = "-"
        self._moments = moments
        self._log = folder / f"worker-{name}.log"
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def start(self, settings: Answer) -> None:
        """Returns when it has registered. The demo's worker knows no COORDINATOR_… variables."""
        environment = {name: value for name, value in os.environ.items() if not is_setting(name)}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "coordinator.cli.demo.worker",
                json.dumps(settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                limit=_LINE_LIMIT,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its workers itself
            )
        self._reading = asyncio.create_task(self._read(self._process))
        await self._ready

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        while process.stdout is not None and (line := await process.stdout.readline()):
            message: Answer = json.loads(line)
            if "moment" in message:
                self._moments.tell(self.name, message)
            elif "ready" in message:
                self.epoch = message["epoch"]
                self._ready.set_result(None)
            else:
                self._answered(message)
        await process.wait()
        gone = CommandFailed("WorkerGone", f"worker {self.name} has ended: {self._last_words()}")
        for future in (self._ready, *self._asked.values()):
            if not future.done():
                future.set_exception(gone)
                future.exception()  # seen: whoever still waits for it gets it all the same
        self._asked.clear()

    def _answered(self, message: Answer) -> None:
        future = self._asked.pop(message["id"], None)
        if future is None or future.done():
            return
        if "ok" in message:
            future.set_result(message["ok"])
        else:
            future.set_exception(Refused(self.name, message["error"]))

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    async def ask(self, do: str, **about: Any) -> Answer:
        """Raises Refused; CommandFailed where the worker is gone."""
        if not self.alive or self._process is None or self._process.stdin is None:
            raise CommandFailed("WorkerGone", f"worker {self.name} is gone")
        number = next(self._ids)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": number, "do": do, **about}).encode() + b"\n")
        return await future

    async def admit(
        self, thread: str, strategy: str = "reject", *, at: int | None = None, **script: Any
    ) -> Answer:
        return await self.ask("admit", thread=thread, strategy=strategy, at=at, script=script)

    async def cancel(self, run_id: str, *, action: str = "interrupt", wait: float | None = 10.0) -> Answer:
        return await self.ask("cancel", run_id=run_id, action=action, wait=wait)

    async def wait(self, run_id: str, timeout: float = 15.0) -> Answer:
        return await self.ask("wait", run_id=run_id, timeout=timeout)

    async def refresh(self) -> None:
        """Update `connectivity`."""
        self.connectivity = (await self.ask("state"))["connectivity"]

    def kill(self) -> None:
        """kill -9. Idempotent."""
        if self._process is not None and self.alive:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def aclose(self, *, politely: bool) -> None:
        """Returns when the process is gone. Idempotent."""
        process = self._process
        if process is None or process.stdin is None:
            return
        if politely and self.alive:
            process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _LEAVES_WITHIN)
        self.kill()
        await process.wait()
        if self._reading is not None:
            await self._reading


def is_setting(name: str) -> bool:
    return name.startswith("COORDINATOR_") and not name.startswith("COORDINATOR_TEST_")
