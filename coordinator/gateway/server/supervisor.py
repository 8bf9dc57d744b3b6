"""Keeps the workers of one port alive: starts them, replaces them, and ends them in time.

SIGTERM, SIGINT   all workers drain and are gone within grace + 5 s; a second signal hurries them
SIGHUP            a rolling restart: each worker leaves when its successor listens
a worker dies     it is started again, at once after a steady life, else with growing pauses
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from coordinator.gateway.server.backoff import Backoff
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import FAILED, CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.process import WorkerProcess, ending, has_terminal, reap_children
from coordinator.gateway.server.spawning import Spawned, spawn
from stores.tasks import begin_soon

logger = logging.getLogger("coordinator.serve")

GONE = 4.9
"""Seconds after the grace at which a worker is killed: it promises to be gone in 5 and ends itself before."""

FRUITLESS = 10
"""So many starts in a row without one worker that serves, and the supervisor gives up."""


class Slot:
    """One of the places that a worker may take. `changing` is held by whoever puts another one there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.backoff = Backoff()
        self.changing = asyncio.Lock()


class Supervisor:
    """`announce` is called once, when every slot has its worker. `changes` yields when the code of the
    workers has changed, for a restart as by SIGHUP."""

    def __init__(
        self,
        listening: Listening,
        orders: Callable[[int], Awaitable[Orders]],
        *,
        slots: int,
        announce: Callable[[Ready], None],
        ahead: Spawned | None = None,
        beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self._listening, self._orders = listening, orders
        self._announce, self._ahead, self._beside = announce, ahead, beside
        self._slots = [Slot(number) for number in range(slots)]
        self._processes: set[WorkerProcess] = set()
        self._fruitless = 0
        self._leaving, self._restart = asyncio.Event(), asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._terminal = has_terminal()

    async def run(self) -> None:
        """Until a signal ends it, with all workers gone. Raises CannotServe."""
        reap_children()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        leaving, serving = begin_soon(self._leaving.wait()), begin_soon(self._serve())
        try:
            await asyncio.wait((leaving, serving), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
        finally:
            for task in (leaving, serving):
                task.cancel()
            await asyncio.gather(leaving, serving, return_exceptions=True)
            await self._end()

    # -- signals

    def _leave(self) -> None:
        if self._leaving.is_set():
            logger.info("hurrying: runs that are left are cancelled now")
            for worker in self._processes:
                worker.tell(signal.SIGTERM)
            if self._patience is not None and not self._patience.expired():
                until = asyncio.get_running_loop().time() + GONE
                self._patience.reschedule(min(until, self._patience.when() or until))
        self._leaving.set()

    def _hang_up(self) -> None:
        """Also what the kernel sends when the terminal is closed: then nobody is there to see a restart."""
        if self._terminal and not has_terminal():
            self._leave()
        else:
            self._restart.set()

    # -- serving

    async def _serve(self) -> None:
        """The first worker alone: it says what is wrong with the options, and makes the store."""
        first, *others = self._slots
        ready = await self._start(first)
        await _together(*(self._start(slot) for slot in others))
        self._announce(ready)
        await _together(
            self._restarts(),
            *(self._tend(slot) for slot in self._slots),
            *(work() for work in self._beside),
        )

    async def _start(self, slot: Slot) -> Ready:
        """A worker for the slot, in the place of whoever is there. Raises CannotServe."""
        spawned, self._ahead = self._ahead or spawn(), None
        worker = await WorkerProcess.of(slot.number, spawned)
        self._processes.add(worker)
        worker.ended.add_done_callback(lambda _: self._processes.discard(worker))
        worker.order(await self._orders(slot.number), self._listening.socket(slot.number))
        ready = await worker.ready()
        slot.worker = worker
        self._fruitless = 0
        logger.info("%s listens, epoch %d", worker.name, ready.epoch)
        return ready

    async def _tend(self, slot: Slot) -> None:
        while True:
            worker = slot.worker
            assert worker is not None  # noqa: S101 - every slot was started, and is left with a worker
            await self._reload(worker)
            status = await asyncio.shield(worker.ended)
            async with slot.changing:
                if slot.worker is worker:  # not replaced: it died
                    await self._again(slot, worker.name, ending(status), worker.served)

    async def _again(self, slot: Slot, name: str, why: str, served: float) -> None:
        while True:
            pause = slot.backoff.next(served)
            logger.error("%s %s; started again %s", name, why, f"in {pause:g} s" if pause else "at once")
            if pause:
                self._listening.renew(slot.number)
                await asyncio.sleep(pause)
            try:
                await self._start(slot)
                return
            except CannotServe as error:
                name, why, served = f"worker {slot.number + 1}", f"could not be started: {error}", 0.0
                self._count_fruitless(error)

    def _count_fruitless(self, error: CannotServe) -> None:
        self._fruitless += 1
        alive = any(slot.worker is not None and not slot.worker.ended.done() for slot in self._slots)
        if self._fruitless >= FRUITLESS and not alive:
            raise CannotServe(
                f"gave up after {FRUITLESS} starts without a worker that listens, the last one: {error}",
                code=FAILED,
            )

    # -- restarts

    async def _restarts(self) -> None:
        while True:
            await self._restart.wait()
            self._restart.clear()
            logger.info("rolling restart of %s", _workers(len(self._slots)))
            try:
                for slot in self._slots:
                    await self._replace(slot)
            except CannotServe as error:
                logger.error("restart stopped, the workers with the code before it go on: %s", error)  # noqa: TRY400 - its line says it all
            else:
                logger.info("rolling restart done")

    async def _replace(self, slot: Slot) -> None:
        async with slot.changing:
            before = slot.worker
            await self._start(slot)
        if before is not None:
            await before.leave(before.grace + GONE)

    async def _reload(self, worker: WorkerProcess) -> None:
        while (what := await worker.change()) is not None:
            logger.info("%s changed", what)
            self._restart.set()

    # -- the end

    async def _end(self) -> None:
        """At the latest 5 s after the longest grace."""
        self._listening.close()
        loop = asyncio.get_running_loop()
        if not self._processes:
            return
        grace = max(worker.grace for worker in self._processes)
        logger.info("leaving: the runs of %s may go on for %g s", _workers(len(self._processes)), grace)
        for worker in self._processes:
            worker.tell(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(loop.time() + grace + GONE) as self._patience:
                await asyncio.wait({worker.ended for worker in self._processes})
        for worker in tuple(self._processes):
            if not worker.ended.done():
                logger.error("%s is not gone in time and is killed", worker.name)
                worker.kill()
                await worker.ended


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


async def _together(*work: Coroutine[Any, Any, object]) -> None:
    """All at once; the first that raises ends the others, and its error is what is raised."""
    tasks = [begin_soon(one) for one in work]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
