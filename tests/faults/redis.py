"""Faults of Redis and of the network before it."""

from __future__ import annotations

import time
from abc import abstractmethod

from coordinator.servers.valkey import ValkeyServer
from tests.faults.fault import Fault
from tests.faults.stage import BLACK_HOLE_DETECTED, Slot, Stage


class RedisFault(Fault):
    """Begins, is probed for `seconds`, ends, and is probed until cancels are fast again."""

    expects = "a cancel meanwhile is delivered within 1.5 s; cancels are fast again within 2 s of its end"
    seconds = 1.5
    lasts = 4.0

    async def strike(self, stage: Stage) -> None:
        await stage.connected()
        stage.test.fault("redis_down", fault=self.name)
        began = time.monotonic()
        await self.begin(stage)
        try:
            await stage.probe_during(self.name, self.seconds)
            await self.while_it_lasts(stage, began)
        finally:
            await self.end(stage)
        since = time.monotonic()
        stage.test.fault("redis_up", fault=self.name)
        await stage.fast_again(since, self.name)

    @abstractmethod
    async def begin(self, stage: Stage) -> None: ...

    async def while_it_lasts(self, stage: Stage, began: float) -> None:
        """Checks anything else."""

    async def end(self, stage: Stage) -> None:
        """Does nothing for faults that end by themselves."""


class Restart(RedisFault):
    name = "Redis restart"

    async def begin(self, stage: Stage) -> None:
        stage.server.kill()

    async def end(self, stage: Stage) -> None:
        stage.server.start()


class Flush(RedisFault):
    name = "FLUSHALL"
    seconds = 0.0
    lasts = 1.0

    async def begin(self, stage: Stage) -> None:
        stage.server.command("FLUSHALL")


class Freeze(RedisFault):
    name = "Redis frozen (SIGSTOP)"

    async def begin(self, stage: Stage) -> None:
        stage.server.pause()

    async def end(self, stage: Stage) -> None:
        stage.server.resume()


class Refuse(RedisFault):
    """Redis answers, and refuses one command to all clients."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.name = f"Redis refuses {command} (ACL)"

    async def begin(self, stage: Stage) -> None:
        stage.server.command("ACL", "SETUSER", "default", f"-{self._command}")

    async def end(self, stage: Stage) -> None:
        stage.server.command("ACL", "SETUSER", "default", f"+{self._command}")


class Failover(RedisFault):
    """The master dies; the sentinel promotes the replica. The old master comes back as a replica."""

    name = "failover (Sentinel)"
    lasts = 12.0

    async def begin(self, stage: Stage) -> None:
        stage.server.kill()

    async def end(self, stage: Stage) -> None:
        assert stage.sentinel is not None
        replica, sentinel = stage.sentinel
        await stage.until(
            "the failover", lambda: _reports(replica, _MASTER, "INFO", "replication"), timeout=20
        )
        old, stage.server = stage.server, replica
        stage.sentinel = (old, sentinel)

    async def strike(self, stage: Stage) -> None:
        await super().strike(stage)
        assert stage.sentinel is not None
        old, sentinel = stage.sentinel
        old.start()
        await stage.until(
            "the old master follows the new one",
            lambda: (
                _reports(old, _REPLICA, "INFO", "replication")
                and _reports(sentinel, _ONE_REPLICA, "SENTINEL", "MASTER", "service")
            ),
        )


_MASTER, _REPLICA, _ONE_REPLICA = b"role:master", b"role:slave", b"num-slaves\r\n$1\r\n1"


def _reports(server: ValkeyServer, what: bytes, *command: str) -> bool:
    """Returns True if the answer contains `what`. A server whose role changes closes its connections."""
    try:
        return what in server.command(*command)
    except OSError:
        return False


class BlackHole(RedisFault):
    """The proxy drops all data, and no connection fails."""

    expects = "detected within 2 s; a cancel meanwhile is delivered within 1.5 s; fast again within 2 s"
    seconds = 2.5
    lasts = 6.0

    def __init__(self, *, all_workers: bool) -> None:
        self._all_workers = all_workers
        self.name = f"proxy: black hole ({'all workers' if all_workers else 'one worker'})"
        self._struck: list[Slot] = []

    async def begin(self, stage: Stage) -> None:
        self._struck = stage.slots if self._all_workers else [stage.rng.choice(stage.slots)]
        for slot in self._struck:
            if slot.proxy is not None:
                slot.proxy.black_hole()

    async def while_it_lasts(self, stage: Stage, began: float) -> None:
        for slot in self._struck:
            delays = [
                event["at"] - began
                for event in slot.live.events
                if event["event"] == "connectivity" and event["value"] != "connected" and event["at"] >= began
            ]
            if delays:
                stage.book.measure("black hole: detected", delays[0], BLACK_HOLE_DETECTED)
            else:
                stage.violation(f"{slot.name} did not detect the black hole within {self.seconds} s")

    async def end(self, stage: Stage) -> None:
        for slot in self._struck:
            if slot.proxy is not None:
                slot.proxy.restore()


class ProxyFault(RedisFault):
    """Affects the link of one worker, or the links of all."""

    async def begin(self, stage: Stage) -> None:
        for slot in stage.slots if stage.rng.random() < 0.5 else [stage.rng.choice(stage.slots)]:
            if slot.proxy is not None:
                self.harm(slot)

    @abstractmethod
    def harm(self, slot: Slot) -> None: ...


class Delay(ProxyFault):
    name = "proxy: replies late by 0.4 s"

    def harm(self, slot: Slot) -> None:
        if slot.proxy is not None:
            slot.proxy.delay = 0.4

    async def end(self, stage: Stage) -> None:
        for slot in stage.slots:
            if slot.proxy is not None:
                slot.proxy.delay = 0.0


class Reset(ProxyFault):
    name = "proxy: connections reset"
    seconds = 0.0
    lasts = 1.5

    def harm(self, slot: Slot) -> None:
        if slot.proxy is not None:
            slot.proxy.reset()


class DropReply(ProxyFault):
    name = "proxy: exactly one reply dropped"
    seconds = 0.0
    lasts = 1.5

    def harm(self, slot: Slot) -> None:
        if slot.proxy is not None:
            slot.proxy.drop_replies = 1
