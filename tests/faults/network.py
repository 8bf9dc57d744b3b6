"""Faults of the network between workers and the store's server that no connection reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

from tests.faults.server import ServerFault
from tests.faults.stage import Stage
from tests.support.proxy import Proxy

_BEATS = "SELECT epoch, hb_seq FROM workers WHERE state <> 'dead'"


class Silence(ServerFault):
    """Also measures how long after its end all workers have renewed their leases."""

    expects = (
        "nothing acknowledged is lost or written twice, no worker is declared dead, leases are renewed soon"
    )
    beats_within: ClassVar[float]

    async def strike(self, stage: Stage) -> None:
        async with asyncio.TaskGroup() as self._group:
            await super().strike(stage)

    async def _ended(self, stage: Stage) -> None:
        """Starts to measure the renewal of leases, in the background."""
        before, since = dict(await stage.query(_BEATS)), time.monotonic()

        async def all_beat() -> bool:
            now = dict(await stage.query(_BEATS))
            return all(now.get(epoch, beats) > beats for epoch, beats in before.items())

        async def measured() -> None:
            if await stage.until(f"all leases are renewed: {self.name}", all_beat) is not None:
                took = time.monotonic() - since
                stage.book.measure(f"{self.over}: all leases renewed", took, self.beats_within)

        self._group.create_task(measured())


class Hole(Silence):
    """Connections stay open and new ones are accepted; TCP acknowledges data that never arrives."""

    name = "proxy: nothing passes between workers and store for 20 s"
    over = "the network passes again after 20 s"
    lasts = 26.0
    bound = 5.0  # a connection that was idle has 2 s for a sign of life, and a run takes three calls
    beats_within = 4.0  # an attempt has 3 s at most, and the next comes at once

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        for proxy in _proxies(stage):
            proxy.black_hole()
        await asyncio.sleep(20.0)  # how long the fault lasts
        for proxy in _proxies(stage):
            proxy.restore()
        await self._ended(stage)
        yield


class Middlebox(Silence):
    """Data on open connections is acknowledged and no longer forwarded; new connections work."""

    name = "proxy: all connections to the store are forgotten, and still acknowledged"
    over = "connections forgotten by a middlebox"
    lasts = 12.0
    bound = 10.0  # a batch that is under way is given up after 5 s
    beats_within = 9.0  # the next heartbeat comes within 5.5 s; its answer has 2.5 s, then it connects anew

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        for proxy in _proxies(stage):
            proxy.black_hole(upto=proxy.connections)
        await self._ended(stage)
        yield


def _proxies(stage: Stage) -> list[Proxy]:
    return [slot.link.proxy for slot in stage.slots if slot.link.proxy is not None]
