"""Faults of the store's server, of the network before it, and of other clients on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from coordinator.servers.process import ServerError
from tests.faults.fault import Fault
from tests.faults.outage import Full, Outage
from tests.faults.postgres import Postgres
from tests.faults.processes import take_up
from tests.faults.stage import PATIENCE, Slot, Stage
from tests.support.waiting import wait_until


def server_of(stage: Stage) -> Postgres:
    assert isinstance(stage.engine, Postgres)
    return stage.engine


class ServerFault(Outage):
    """Without Redis, hints by NOTIFY have to be fast again, too."""

    expects = "nothing acknowledged is lost, no worker is declared dead, a run passes within 2 s of its end"
    bound = 2.0  # a client that is refused retries every 0.5 s; a run takes three calls

    async def strike(self, stage: Stage) -> None:
        await stage.connected()
        await super().strike(stage)
        if stage.slots[0].redis is None:
            await stage.fast_again(time.monotonic(), self.name)


class ServerRestart(ServerFault):
    name = "server restart -m immediate"
    over = "server back after a crash"
    lasts = 4.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        server = server_of(stage)
        await server.crash()
        await asyncio.sleep(stage.rng.uniform(0, 1))
        await server.start()
        yield


class Frozen(ServerFault):
    """Connections stay open, the kernel accepts new ones, and the server does not answer."""

    name = "server frozen for 3 s (SIGSTOP)"
    over = "server resumed after a pause"
    lasts = 5.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        server = server_of(stage).server
        server.pause()
        try:
            await asyncio.sleep(3.0)  # how long the fault lasts
        finally:
            server.resume()
        yield


class Storm(ServerFault):
    """Every session of every worker is ended, again and again."""

    name = "pg_terminate_backend storm for 2 s"
    over = "storm over"
    lasts = 3.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            stage.book.counts["sessions ended in storms"] += await server_of(stage).terminate()
            await asyncio.sleep(stage.rng.uniform(0.02, 0.2))
        yield


class StrangersLock(ServerFault):
    """A transaction of another client locks the table of runs."""

    name = "table of runs locked for 5 s"
    over = "stranger's lock gone"
    lasts = 7.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        async with server_of(stage).locked():
            await asyncio.sleep(5.0)  # how long the fault lasts
        yield


class LostAnswers(ServerFault):
    """Ten times: the answer to a COMMIT is dropped, then all connections are reset."""

    name = "proxy: connections to the store die unanswered"
    over = "the network to the store works again"
    lasts = 3.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        for _ in range(10):
            proxy = stage.rng.choice(stage.slots).link.proxy
            assert proxy is not None
            proxy.drop_replies = 1
            await wait_until(lambda proxy=proxy: not proxy.drop_replies, description="an answer is lost")
            proxy.reset()
            stage.book.counts["answers of the store lost"] += 1
            await asyncio.sleep(stage.rng.uniform(0, 0.2))
        yield


class CutOff(Fault):
    """One worker is alive and cannot reach the store, until its peers have declared it dead."""

    name = "proxy: one worker cut off from the store past its lease"
    expects = "it stops by itself in time, not one of its writes is accepted, it registers anew"
    lasts = 5.0

    async def strike(self, stage: Stage) -> None:
        slot = stage.rng.choice(stage.slots)
        proxy = slot.link.proxy
        assert proxy is not None
        await take_up(stage, slot)
        await asyncio.sleep(stage.rng.uniform(0.02, 0.1))
        epoch = (await stage.epochs(slot))[-1]
        stage.test.fault("paused", worker=slot.name)
        proxy.black_hole()
        try:
            await self._until_dead(stage, slot, epoch)
        finally:
            proxy.restore()
            proxy.reset()  # the network has forgotten them
        since = time.monotonic()
        took = await stage.until(f"{slot.name} registers anew", lambda: stage.is_anew(slot, epoch))
        if took is not None:
            stage.book.measure(
                "cut off and declared dead: registered anew once the store is in reach",
                time.monotonic() - since,
                5.0,
            )
        await slot.live.do("put_down")

    async def _until_dead(self, stage: Stage, slot: Slot, epoch: int) -> None:
        took = await stage.until(f"{slot.name} is declared dead", lambda: stage.is_dead(epoch))
        if took is None:
            return
        stage.test.fault("declared_dead", worker=slot.name, epoch=epoch)
        stage.book.counts["cut off and declared dead"] += 1
        knobs = stage.knobs
        bound = knobs.lease_ttl + knobs.sweep + knobs.tick
        stage.book.measure(f"cut off: declared dead (ttl {knobs.lease_ttl:g} s)", took, bound)


class ServerDiskFull(Full):
    """The whole cluster is on that disk. A server that gave up is restarted when there is room again."""

    name = "disk of the server full"
    expects = "errors, no false answers while it is full; a run passes within 2 s of its end; data stay sound"
    bound = 2.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        server = server_of(stage)
        async with super().lasting(stage):
            until = time.monotonic() + PATIENCE
            while not await server.answers() and time.monotonic() < until:
                if server.server.over:
                    stage.book.counts["server gave up for want of space"] += 1
                    with suppress(ServerError):
                        await server.start()
                await asyncio.sleep(0.02)
            yield
