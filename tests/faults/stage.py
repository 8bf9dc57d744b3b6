"""The subject of the faults: three workers on one store, each with a proxy of its own before a Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator import Settings
from coordinator.servers.valkey import ValkeyServer
from tests.faults.engine import Engine, Link
from tests.faults.forked import fork
from tests.faults.measures import Book
from tests.histories import Recorder
from tests.support.processes import WorkerProcess
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

FAST = 0.15
"""(s) A cancel delivered by a hint takes some ms, one found by a tick half a tick on average, here 250 ms."""
FAST_AGAIN, DELIVERED, BLACK_HOLE_DETECTED = 2.0, 1.5, 2.0  # s; as in DESIGN §11 and the issue
DISK = "disk"
PATIENCE = 30.0  # s; the longest wait of the suite


@dataclass(slots=True)
class Slot:
    """A place for a worker; after each kill another incarnation starts in it."""

    number: int
    host: str | None
    redis: str | None
    """None: hints travel by the store's own means, if it has any."""
    proxy: Proxy | None
    link: Link
    generation: int = -1
    worker: WorkerProcess | None = None
    name: str = ""

    @property
    def live(self) -> WorkerProcess:
        assert self.worker is not None
        return self.worker


@dataclass(slots=True)
class Stage:
    leg: str
    folder: Path
    settings: dict[str, Any]
    engine: Engine
    server: ValkeyServer
    book: Book
    test: Recorder
    rng: random.Random
    slots: list[Slot] = field(default_factory=list[Slot])
    sentinel: tuple[ValkeyServer, ValkeyServer] | None = None
    """(replica, sentinel), if the leg has a failover."""
    probes: int = 0

    @property
    def disk(self) -> Path:
        """The store's own folder: a disk that is full there does not affect the histories."""
        return self.folder / DISK

    @property
    def knobs(self) -> Settings:
        return Settings(**self.settings)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await self.engine.query(sql, *parameters)

    def proves_death(self, slot: Slot) -> bool:
        """Returns True if the death of its worker is proven at once, before its lease expires."""
        return self.engine.proves_death and slot.host is None

    def violation(self, what: str) -> None:
        self.book.violations.append((self.leg, what))

    # -- workers

    async def start(self, slot: Slot, *, work: bool = True) -> None:
        slot.generation += 1
        slot.name = f"{self.leg}-{'abc'[slot.number]}.{slot.generation}"
        config = {
            "name": slot.name,
            "folder": str(self.folder),
            "prefix": self.leg,
            "host": slot.host,
            "settings": {**self.settings, **slot.link.settings, "redis": slot.redis},
        }
        slot.worker = await fork(config)
        if work:
            await slot.worker.do("work")

    async def connected(self) -> None:
        for slot in self.slots:
            await wait_until(
                lambda slot=slot: self.is_connected(slot), description="it is connected", timeout=PATIENCE
            )

    async def is_connected(self, slot: Slot) -> bool:
        return await slot.live.do("connectivity") == "connected"

    async def epochs(self, slot: Slot, *, alive: bool = True) -> list[int]:
        """Returns the epochs of the worker's process, oldest first."""
        where = "AND state <> 'dead'" if alive else ""
        pid = slot.live.pid
        rows = await self.query(f"SELECT epoch FROM workers WHERE pid = ? {where} ORDER BY epoch", pid)
        return [epoch for (epoch,) in rows]

    async def living(self) -> list[tuple[int]]:
        return await self.query("SELECT epoch FROM workers WHERE state <> 'dead' ORDER BY epoch")

    async def is_dead(self, epoch: int) -> bool:
        return not await self.query("SELECT 1 FROM workers WHERE epoch = ? AND state <> 'dead'", epoch)

    async def is_anew(self, slot: Slot, epoch: int) -> bool:
        """Returns True if the worker has registered again since it had `epoch`."""
        return any(newer > epoch for newer in await self.epochs(slot))

    async def unfinished(self, epochs: Sequence[int]) -> list[str]:
        """Returns the runs in flight of these workers."""
        rows = await self.query(
            f"SELECT run_id FROM runs WHERE {_IN_FLIGHT}"
            f" AND COALESCE(owner_epoch, home_epoch) IN ({_marks(epochs)})",
            *epochs,
        )
        return [run for (run,) in rows]

    async def is_over(self, epochs: Sequence[int], runs: Sequence[str]) -> bool:
        """Returns True if the workers are dead, the runs have ended, and they hold no thread."""
        alive = f"SELECT 1 FROM workers WHERE epoch IN ({_marks(epochs)}) AND state <> 'dead'"
        held = f"SELECT 1 FROM runs WHERE run_id IN ({_marks(runs)}) AND {_IN_FLIGHT} LIMIT 1"
        return not await self.query(alive, *epochs) and not await self.query(held, *runs)

    async def until(
        self, what: str, predicate: Callable[[], object | Awaitable[object]], timeout: float = PATIENCE
    ) -> float | None:
        """Returns the seconds that it took, or None after `timeout`, which is a violation."""
        try:
            return await wait_until(predicate, description=what, timeout=timeout)
        except AssertionError as error:
            self.violation(str(error))
            return None

    # -- probes

    async def probe(self) -> tuple[float, float]:
        """Cancels a run of one worker from another. Returns when it was called (monotonic), and the seconds
        until the run's code received it."""
        owner, other = self.rng.sample(self.slots, 2)
        self.probes += 1
        run = await owner.live.do("admit", thread=f"probe-{self.leg}-{self.probes}")
        await owner.live.wait_for("started", run, timeout=PATIENCE)
        called = (await other.live.do("cancel_now", run=run))["called"] / 1e9
        delivered = await owner.live.wait_for("cancelled", run, timeout=PATIENCE)
        return called, delivered["at"] - called

    async def probe_during(self, what: str, seconds: float) -> None:
        """Probes at least once, until `seconds` have passed."""
        until = time.monotonic() + seconds
        while True:
            _, took = await self.probe()
            self.book.measure(f"cancel during a Redis fault: delivered ({what})", took, DELIVERED)
            if (left := until - time.monotonic()) <= 0:
                return
            await asyncio.sleep(min(left, self.rng.uniform(0.05, 0.4)))

    async def fast_again(self, since: float, what: str) -> None:
        """Probes until hints deliver cancels between two workers again."""
        carrier = "NOTIFY" if self.slots[0].redis is None else "Redis"
        until = since + PATIENCE
        while time.monotonic() < until:
            ready = [await self.is_connected(slot) for slot in self.slots]
            if all(ready):
                called, took = await self.probe()
                if took <= FAST:
                    seconds = max(0.0, called - since)
                    self.book.measure(f"{carrier} back: cancels fast again ({what})", seconds, FAST_AGAIN)
                    return
            else:
                await asyncio.sleep(0.01)
        self.violation(f"no fast cancel within {PATIENCE} s after {what}")

    # -- the end

    async def quiet(self) -> None:
        """Stops all clients, and waits until all runs have settled."""
        await asyncio.gather(*(slot.live.do("rest") for slot in self.slots))
        self.test.fault("healed")
        took = await self.until("everything is settled after the last fault", self.is_settled)
        if took is not None:
            self.book.measure("everything settled after the last fault", took, 10.0)

    async def is_settled(self) -> bool:
        return not await self.query(f"SELECT 1 FROM runs WHERE {_IN_FLIGHT} OR settled_at IS NULL LIMIT 1")

    async def leave(self) -> None:
        for slot in self.slots:
            if slot.worker is None:
                continue
            try:
                await slot.worker.leave()
            except TimeoutError:
                self.violation(f"{slot.name} did not leave within 20 s")
            await slot.worker.kill()

    async def abandon(self) -> None:
        for slot in self.slots:
            if slot.worker is not None:
                with suppress(ProcessLookupError):
                    slot.worker.send(signal.SIGCONT)
                await slot.worker.kill()


_IN_FLIGHT = "(holds_thread OR status IN ('pending', 'running'))"


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values)) or "NULL"


async def holds(predicate: Callable[[], object | Awaitable[object]], *, within: float) -> bool:
    try:
        await wait_until(predicate, description="it holds", timeout=within)
    except AssertionError:
        return False
    return True


SENTINEL = """
sentinel monitor service {host} {port} 1
sentinel down-after-milliseconds service 300
sentinel failover-timeout service 2000
"""


@asynccontextmanager
async def set_up(
    leg: str,
    folder: Path,
    engine: Engine,
    settings: dict[str, Any],
    book: Book,
    *,
    rng: random.Random,
    hosts: Sequence[str | None] = (None, None, None),
    failover: bool = False,
    redis: bool = True,
) -> AsyncGenerator[Stage]:
    """Yields a stage with three connected workers that execute the workload. No process is left at the end.
    With `redis=False` the workers have no Redis."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(ValkeyServer())
        test = stack.enter_context(Recorder(f"{leg}-test", folder / "test.jsonl"))
        stage = Stage(leg, folder, settings, engine, server, book, test, rng)
        if failover:
            replica = stack.enter_context(ValkeyServer("--replicaof", server.host, str(server.port)))
            config = SENTINEL.format(host=server.host, port=server.port)
            sentinel = stack.enter_context(ValkeyServer("--sentinel", config=config))
            stage.sentinel = (replica, sentinel)
            await wait_until(
                lambda: b"num-slaves\r\n$1\r\n1" in sentinel.command("SENTINEL", "MASTER", "service"),
                description="the sentinel knows the replica",
                timeout=20,
            )
        for number, host in enumerate(hosts):
            proxy, url = None, None
            if stage.sentinel is not None:
                url = f"redis+sentinel://{stage.sentinel[1].host}:{stage.sentinel[1].port}/service/0"
            elif redis:
                proxy = await stack.enter_async_context(Proxy(server.host, server.port))
                url = proxy.url
            link = await stack.enter_async_context(engine.link())
            stage.slots.append(Slot(number, host, url, proxy, link))
        stack.push_async_callback(stage.abandon)
        await asyncio.gather(*(stage.start(slot) for slot in stage.slots))
        await stage.connected()
        yield stage
