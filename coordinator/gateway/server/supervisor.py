"""Supervises the workers of one port: starts, restarts, replaces and stops them.

SIGTERM, SIGINT   all workers drain and end within grace + 5 s; a second signal ends the grace
SIGHUP            rolling restart: each worker stops when its successor listens
a worker dies     it is restarted, at once if it has served for 10 s, else with exponential backoff
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress

from coordinator.gateway.server.backoff import Backoff
from coordinator.gateway.server.channel import Orders, Ready
from coordinator.gateway.server.failures import FAILED, CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.process import WorkerProcess, ending, has_terminal, reap_children
from coordinator.gateway.server.spawning import Spawned, spawn
from stores.tasks import begin_soon

logger = logging.getLogger("coordinator.serve")

KILL_AFTER = 4.9
"""Seconds after the grace at which a worker is killed. Workers end by themselves before that; the contract is
grace + 5 s."""

MAX_FAILED_STARTS = 10
"""After this many consecutive failed starts, with no worker alive, the supervisor gives up."""


class Slot:
    """A slot holds one worker. `changing` is held while that worker is replaced."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.backoff = Backoff()
        self.changing = asyncio.Lock()


class Supervisor:
    """Keeps one worker alive in each slot.

    `announce` is called once, when every slot has a listening worker. `ahead` is a worker that was spawned
    before the supervisor existed. `beside` are coroutines that run as long as the workers are served."""

    def __init__(
        self,
        listening: Listening,
        orders: Callable[[int], Awaitable[Orders]],
        *,
        slots: int,
        announce: Callable[[Ready], None],
        ahead: Spawned | None = None,
        beside: Sequence[Callable[[], Coroutine[object, object, None]]] = (),
    ) -> None:
        self._listening, self._orders = listening, orders
        self._announce, self._ahead, self._beside = announce, ahead, beside
        self._slots = [Slot(number) for number in range(slots)]
        self._processes: set[WorkerProcess] = set()
        self._failed_starts = 0
        self._stopping, self._restart = asyncio.Event(), asyncio.Event()
        self._deadline: asyncio.Timeout | None = None
        self._terminal = has_terminal()

    async def run(self) -> None:
        """Serves until a signal, then stops all workers and returns when they have ended. Raises
        CannotServe."""
        reap_children()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        stopping, serving = begin_soon(self._stopping.wait()), begin_soon(self._serve())
        try:
            await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
        finally:
            for task in (stopping, serving):
                task.cancel()
            await asyncio.gather(stopping, serving, return_exceptions=True)
            await self._stop()

    # -- signals

    def _on_stop_signal(self) -> None:
        if self._stopping.is_set():
            logger.info("second signal: the grace ends, remaining runs are cancelled now")
            for worker in self._processes:
                worker.send_signal(signal.SIGTERM)
            if self._deadline is not None and not self._deadline.expired():
                until = asyncio.get_running_loop().time() + KILL_AFTER
                self._deadline.reschedule(min(until, self._deadline.when() or until))
        self._stopping.set()

    def _on_sighup(self) -> None:
        """Starts a rolling restart. The kernel also sends SIGHUP when the terminal is closed: then stops."""
        if self._terminal and not has_terminal():
            self._on_stop_signal()
        else:
            self._restart.set()

    # -- serving

    async def _serve(self) -> None:
        """Starts the first worker alone, because it validates the options and creates the store; then the
        others."""
        first, *others = self._slots
        ready = await self._start(first)
        await _run_all(*(self._start(slot) for slot in others))
        self._announce(ready)
        await _run_all(
            self._restart_on_request(),
            *(self._keep_alive(slot) for slot in self._slots),
            *(work() for work in self._beside),
        )

    async def _start(self, slot: Slot) -> Ready:
        """Starts a worker and assigns it to `slot` when it listens. Raises CannotServe; `slot` is then
        unchanged."""
        spawned, self._ahead = self._ahead or spawn(), None
        worker = await WorkerProcess.connect(slot.number, spawned)
        self._processes.add(worker)
        worker.ended.add_done_callback(lambda _: self._processes.discard(worker))
        worker.order(await self._orders(slot.number), self._listening.socket(slot.number))
        ready = await worker.ready()
        slot.worker = worker
        self._failed_starts = 0
        logger.info("%s listens, epoch %d", worker.name, ready.epoch)
        return ready

    async def _keep_alive(self, slot: Slot) -> None:
        while True:
            worker = slot.worker
            assert worker is not None  # noqa: S101 - every slot was started, and is left with a worker
            await self._restart_on_edit(worker)
            status = await asyncio.shield(worker.ended)
            async with slot.changing:
                if slot.worker is worker:  # it was not replaced, so it ended by itself or by a signal
                    level = logging.INFO if status == 0 else logging.ERROR
                    reason = "has drained and ended" if status == 0 else ending(status)
                    await self._restart_dead(slot, worker.name, reason, worker.seconds_served, level)

    async def _restart_dead(
        self, slot: Slot, name: str, reason: str, lived: float, level: int = logging.ERROR
    ) -> None:
        while True:
            if pause := slot.backoff.next(lived):
                self._listening.renew(slot.number)  # before the line, which is then true: others accept
            logger.log(level, "%s %s; restarted %s", name, reason, f"in {pause:g} s" if pause else "at once")
            await asyncio.sleep(pause)
            try:
                await self._start(slot)
                return
            except CannotServe as error:
                name, reason, lived = f"worker {slot.number + 1}", f"could not be started: {error}", 0.0
                level = logging.ERROR
                self._count_failed_start(error)

    def _count_failed_start(self, error: CannotServe) -> None:
        self._failed_starts += 1
        any_alive = any(slot.worker is not None and not slot.worker.ended.done() for slot in self._slots)
        if self._failed_starts >= MAX_FAILED_STARTS and not any_alive:
            raise CannotServe(
                f"gave up after {MAX_FAILED_STARTS} failed starts in succession, the last one: {error}",
                code=FAILED,
            )

    # -- restarts

    async def _restart_on_request(self) -> None:
        while True:
            await self._restart.wait()
            self._restart.clear()
            logger.info("rolling restart of %s", _worker_count(len(self._slots)))
            try:
                for slot in self._slots:
                    await self._replace(slot)
            except CannotServe as error:
                logger.error("rolling restart aborted, the remaining workers keep the old code: %s", error)  # noqa: TRY400 - the message is complete without a traceback
            else:
                logger.info("rolling restart done")

    async def _replace(self, slot: Slot) -> None:
        async with slot.changing:
            replaced = slot.worker
            await self._start(slot)
        if replaced is not None:
            await replaced.terminate(replaced.grace + KILL_AFTER)

    async def _restart_on_edit(self, worker: WorkerProcess) -> None:
        while (path := await worker.next_change()) is not None:
            logger.info("%s changed", path)
            self._restart.set()

    # -- the end

    async def _stop(self) -> None:
        """Stops all workers, at the latest 5 s after the longest grace."""
        self._listening.close()
        loop = asyncio.get_running_loop()
        if not self._processes:
            return
        grace = max(worker.grace for worker in self._processes)
        logger.info("stopping %s: their runs have %g s of grace", _worker_count(len(self._processes)), grace)
        for worker in self._processes:
            worker.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(loop.time() + grace + KILL_AFTER) as self._deadline:
                await asyncio.wait({worker.ended for worker in self._processes})
        for worker in tuple(self._processes):
            if not worker.ended.done():
                logger.error("%s has not ended in time and is killed", worker.name)
                worker.kill()
                await worker.ended


def _worker_count(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


async def _run_all(*work: Coroutine[object, object, object]) -> None:
    """Runs `work` concurrently. If one raises, the others are cancelled and its exception is raised."""
    tasks = [begin_soon(coroutine) for coroutine in work]
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
