"""What the faults strike: three workers on one SQLite file, each behind a network of its own to a Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator import Settings
from coordinator.testing.history import Recorder
from coordinator.testing.valkey import ValkeyServer
from stores.sqlite import SQLiteStore
from tests.faults.forked import fork
from tests.faults.measures import Book
from tests.support.processes import WorkerProcess
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

FAST = 0.15
"""s: what a hint brings takes some ms; what a tick finds takes half a tick on average, here 250 ms."""
FAST_AGAIN, DELIVERED, BLACK_HOLE_FOUND = 2.0, 1.5, 2.0  # s; as DESIGN §11 and the issue have them
DISK = "disk"
PATIENCE = 30.0  # s until the suite stops waiting for what does not come

_WITNESS = """
CREATE TABLE test_saves (id INTEGER PRIMARY KEY, run_id TEXT, epoch INTEGER, n INTEGER);
CREATE TABLE test_burials (epoch INTEGER PRIMARY KEY, by INTEGER, save INTEGER, transition INTEGER);
CREATE TRIGGER test_saves_log AFTER UPDATE OF "values" ON threads WHEN NEW."values" ->> '$.by' IS NOT NULL
BEGIN
    INSERT INTO test_saves (run_id, epoch, n)
    VALUES (NEW."values" ->> '$.by', NEW."values" ->> '$.epoch', NEW."values" ->> '$.n');
END;
CREATE TRIGGER test_burials_log AFTER UPDATE OF state ON workers
WHEN NEW.state = 'dead' AND OLD.state <> 'dead'
BEGIN
    INSERT INTO test_burials VALUES (NEW.epoch, NEW.fenced_by,
        (SELECT COALESCE(max(id), 0) FROM test_saves), (SELECT COALESCE(max(id), 0) FROM transitions));
END;
"""
"""The test's own log in the store's file: which values threads had and who was buried when, in commit order
and whatever the clocks say. Histories tell what was acknowledged, this tells what was accepted."""


@dataclass(slots=True)
class Slot:
    """A place for a worker; after each kill another incarnation takes it."""

    number: int
    host: str | None
    redis: str
    proxy: Proxy | None
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
    server: ValkeyServer
    book: Book
    test: Recorder
    rng: random.Random
    slots: list[Slot] = field(default_factory=list[Slot])
    sentinel: tuple[ValkeyServer, ValkeyServer] | None = None
    """(replica, sentinel), where the Redis fails over."""
    probes: int = 0

    @property
    def database(self) -> Path:
        return self.disk / "runs.db"

    @property
    def disk(self) -> Path:
        """The store's own folder: what fills it up leaves the histories alone."""
        return self.folder / DISK

    @property
    def knobs(self) -> Settings:
        return Settings(**self.settings)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        uri = f"file:{self.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as cx:
            return cx.execute(sql, parameters).fetchall()

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
            "settings": {**self.settings, "store": f"sqlite:///{self.database}", "redis": slot.redis},
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

    def epochs(self, slot: Slot, *, alive: bool = True) -> list[int]:
        """Of this process, oldest first."""
        where = "AND state <> 'dead'" if alive else ""
        pid = slot.live.pid
        rows = self.query(f"SELECT epoch FROM workers WHERE pid = ? {where} ORDER BY epoch", pid)
        return [epoch for (epoch,) in rows]

    def unfinished(self, epochs: Sequence[int]) -> list[str]:
        """Runs in flight of these workers."""
        marks = ", ".join("?" * len(epochs))
        return [
            run
            for (run,) in self.query(
                "SELECT run_id FROM runs WHERE (holds_thread OR status IN ('pending', 'running'))"
                f" AND COALESCE(owner_epoch, home_epoch) IN ({marks})",
                *epochs,
            )
        ]

    def is_over(self, epochs: Sequence[int], runs: Sequence[str]) -> bool:
        """The workers are buried, the runs ended, their threads free of them."""
        held = f"SELECT 1 FROM runs WHERE run_id IN ({', '.join('?' * len(runs))}) AND (holds_thread OR"
        held += " status IN ('pending', 'running')) LIMIT 1"
        alive = f"SELECT 1 FROM workers WHERE epoch IN ({', '.join('?' * len(epochs))}) AND state <> 'dead'"
        return not self.query(alive, *epochs) and not self.query(held, *runs)

    async def until(
        self, what: str, predicate: Callable[[], object], timeout: float = PATIENCE
    ) -> float | None:
        """Seconds that it took; None, and a violation, where it did not come."""
        try:
            return await wait_until(predicate, description=what, timeout=timeout)
        except AssertionError as error:
            self.violation(str(error))
            return None

    # -- probes

    async def probe(self) -> tuple[float, float]:
        """A cancel from one worker of a run of another: when it was asked for (monotonic), and how long
        until the run's code was told."""
        owner, other = self.rng.sample(self.slots, 2)
        self.probes += 1
        run = await owner.live.do("admit", thread=f"probe-{self.leg}-{self.probes}")
        await owner.live.said("started", run, timeout=PATIENCE)
        called = (await other.live.do("cancel_now", run=run))["called"] / 1e9
        told = await owner.live.said("cancelled", run, timeout=PATIENCE)
        return called, told["at"] - called

    async def probe_during(self, what: str, seconds: float) -> None:
        """At least one, until so long has passed."""
        until = time.monotonic() + seconds
        while True:
            _, took = await self.probe()
            self.book.measure(f"cancel during a Redis fault: delivered ({what})", took, DELIVERED)
            if (left := until - time.monotonic()) <= 0:
                return
            await asyncio.sleep(min(left, self.rng.uniform(0.05, 0.4)))

    async def fast_again(self, since: float, what: str) -> None:
        """Until hints carry cancels between any two workers again."""
        until = since + PATIENCE
        while time.monotonic() < until:
            ready = [await self.is_connected(slot) for slot in self.slots]
            if all(ready):
                called, took = await self.probe()
                if took <= FAST:
                    seconds = max(0.0, called - since)
                    self.book.measure(f"Redis back: cancels fast again ({what})", seconds, FAST_AGAIN)
                    return
            else:
                await asyncio.sleep(0.01)
        self.violation(f"no fast cancel within {PATIENCE} s after {what}")

    # -- the end

    async def quiet(self) -> None:
        """All clients rest, and everything settles."""
        await asyncio.gather(*(slot.live.do("rest") for slot in self.slots))
        self.test.fault("healed")
        took = await self.until("everything is settled after the last fault", self.is_settled)
        if took is not None:
            self.book.measure("everything settled after the last fault", took, 10.0)

    def is_settled(self) -> bool:
        return not self.query(
            "SELECT 1 FROM runs WHERE holds_thread OR status IN ('pending', 'running')"
            " OR settled_at IS NULL LIMIT 1"
        )

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


async def holds(predicate: Callable[[], object], *, within: float) -> bool:
    try:
        await wait_until(predicate, description="it holds", timeout=within)
    except AssertionError:
        return False
    return True


async def _prepare(database: Path) -> None:
    store = SQLiteStore(database)
    await store.open()
    await store.aclose()
    with closing(sqlite3.connect(database)) as cx:
        cx.executescript(_WITNESS)


SENTINEL = """
sentinel monitor service {host} {port} 1
sentinel down-after-milliseconds service 300
sentinel failover-timeout service 2000
"""


@asynccontextmanager
async def set_up(
    leg: str,
    folder: Path,
    settings: dict[str, Any],
    book: Book,
    rng: random.Random,
    *,
    hosts: Sequence[str | None] = (None, None, None),
    failover: bool = False,
) -> AsyncGenerator[Stage]:
    """Three connected workers at work. However this ends, no process is left."""
    await _prepare(folder / DISK / "runs.db")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(ValkeyServer())
        test = stack.enter_context(Recorder(f"{leg}-test", folder / "test.jsonl"))
        stage = Stage(leg, folder, settings, server, book, test, rng)
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
            proxy, url = None, server.url
            if stage.sentinel is not None:
                url = f"redis+sentinel://{stage.sentinel[1].host}:{stage.sentinel[1].port}/service/0"
            else:
                proxy = await stack.enter_async_context(Proxy(server.host, server.port))
                url = proxy.url
            stage.slots.append(Slot(number, host, url, proxy))
        stack.push_async_callback(stage.abandon)
        await asyncio.gather(*(stage.start(slot) for slot in stage.slots))
        await stage.connected()
        yield stage
