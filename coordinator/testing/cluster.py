"""Workers of one process that share a store in memory, and can crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from coordinator.arguments import check_limit
from coordinator.assistants.decorator import Agents
from coordinator.clock import Clocks
from coordinator.errors import StoreUnavailable
from coordinator.locks.local import LocalSlotLock
from coordinator.manager import RunManager
from coordinator.notifier import Connectivity, Signal
from coordinator.notifiers.local import LocalHub, LocalNotifier
from coordinator.settings import Settings
from coordinator.testing.clock import Clock, check_span
from coordinator.testing.event_log import ClusterEventLog
from coordinator.testing.store import WorkerStore
from coordinator.workers.lease import Lease
from coordinator.workers.reaper import ORPHANED
from stores.memory import MemoryStore
from stores.tasks import begin_soon

_HALF_A_DAY = 43_200.0
_ENDLESS = 1e9
"""Seconds. A lease ends only in a crash: no heartbeat has to be written as time is advanced."""

_DEFAULTS: dict[str, Any] = {  # Any: by the names of Settings
    # Work at an interval is done at the end of `advance` as well.
    **dict.fromkeys(("tick", "short_tick", "sweep", "renew", "prune"), _HALF_A_DAY),
    "jitter": 0.0,
    "lease_ttl": _ENDLESS,
    "grace": 0.0,
}


class _Node:
    """One worker and the adapters that a crash cuts off."""

    def __init__(self, cluster: Cluster, assistants: Agents | None, settings: Settings, clock: Clock) -> None:
        self.store = WorkerStore(cluster.store, cluster.dead)
        self.pacemaker = _Pacemaker()
        self.notifier = _Notifier(cluster.hub)
        self.manager = RunManager(
            self.store,
            settings=settings,
            notifier=self.notifier,
            slots=LocalSlotLock(self.notifier),
            event_log=cluster.event_log,
            assistants=assistants,
            pacemaker=self.pacemaker,
            clocks=Clocks(clock.boottime, clock.wall, clock.monotonic),
        )


class _Notifier(LocalNotifier):
    """Triggers a tick of the worker on request of the cluster."""

    resync: Callable[[], None] = staticmethod(lambda: None)

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        self.resync = on_resync
        await super().start(epoch, on_signal, on_resync, on_connectivity)


class _Pacemaker:
    """Never renews the lease. Implements `workers.lease.Pacemaker`."""

    lag = stall = failing_since = failure = None

    def __init__(self) -> None:
        self._lease: Lease | None = None

    def start(self, lease: Lease) -> None:
        self._lease = lease

    async def stop(self) -> None:
        """Nothing beats."""

    def end(self, why: str) -> None:
        """End the lease: the worker drops its runs and writes nothing any more."""
        if self._lease is not None:
            self._lease.revoke(self._lease.epoch, why)


class Cluster:
    """Created by `cluster`. Signals and events between workers are delivered at once, as with Redis."""

    def __init__(self, clock: Clock, assistants: Agents | None, settings: Settings) -> None:
        self.clock = clock
        self.store = MemoryStore(shared=True, clock=clock.wall)
        self.hub = LocalHub()
        self.event_log = ClusterEventLog(settings.event_log_ttl, clock.monotonic)
        self.dead = set[int]()
        self._assistants, self._settings = assistants, settings
        self._nodes: list[_Node] = []
        self._crashes = set[asyncio.Task[None]]()

    @property
    def workers(self) -> tuple[RunManager, ...]:
        """The live workers, in the order in which they started."""
        return tuple(node.manager for node in self._nodes)

    async def start(self) -> RunManager:
        """Start one more worker, with an epoch of its own. It ends the runs that dead workers left."""
        node = _Node(self, self._assistants, self._settings, self.clock)
        await node.manager.open()
        self._nodes.append(node)
        await self._run_intervals()
        return node.manager

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Move the time of the event loop, of the store and of every worker ahead, from timer to timer.
        Then every worker ticks. Returns when nothing is ready to run; does not wait for threads and
        sockets."""
        spans = {
            "days": (days, 86_400),
            "hours": (hours, 3600),
            "minutes": (minutes, 60),
            "seconds": (seconds, 1),
        }
        await self.clock.advance(sum(check_span(name, *span) for name, span in spans.items()))
        await self._run_intervals()

    async def crash(self, worker: RunManager) -> None:
        """End the worker as by `kill -9`, also from within one of its agents, which does not go on then. The
        others declare it dead, as they do on one host: its running runs end as `error`, its queued runs are
        taken over if they are portable. Its agents are cancelled; nothing that they or the worker write is
        accepted. A crash that has begun is completed if its caller is cancelled. Raises ValueError for a
        worker that is not alive."""
        node = next((node for node in self._nodes if node.manager is worker), None)
        if node is None:
            raise ValueError("not a living worker of this cluster")
        self._nodes.remove(node)
        node.store.crashed = True
        node.pacemaker.end("it has crashed")
        # The caller may be an agent of this worker, and is cancelled then.
        crash = begin_soon(self._crash(node), name="a crash")
        self._crashes.add(crash)
        crash.add_done_callback(self._crashes.discard)
        await asyncio.shield(crash)

    async def _crash(self, node: _Node) -> None:
        epoch = node.manager.worker.epoch
        await node.notifier.aclose()
        await node.manager.aclose()
        self.dead.add(epoch)
        await self._run_intervals()

    async def aclose(self) -> None:
        """Shut down every worker. Idempotent."""
        if self._crashes:
            await asyncio.wait(self._crashes)
        nodes, self._nodes = self._nodes, []
        for node in nodes:
            await node.manager.aclose()

    async def _run_intervals(self) -> None:
        """Do the interval work of live workers: one sweep for dead workers, and a tick of each worker."""
        for survivor in self._nodes[:1]:
            with suppress(StoreUnavailable):  # it has crashed meanwhile
                await survivor.manager.reconcile_orphaned_inflight_runs(error=ORPHANED)
        for node in self._nodes:
            node.notifier.resync()
        await self.clock.rest()


@asynccontextmanager
async def cluster(
    workers: int = 1,
    *,
    assistants: Agents | None = None,
    **settings: Any,  # Any: by the names of Settings, which checks them
) -> AsyncGenerator[Cluster]:
    """Workers that have started, on a store of their own, with these assistants and settings. They end with
    the block. Needs no server and no file. Raises InvalidArgument, and RuntimeError on an event loop that is
    not asyncio's."""
    check_limit("workers", workers)
    with Clock() as clock:
        made = Cluster(clock, assistants, Settings(**{**_DEFAULTS, **settings}))
        try:
            for _ in range(workers):
                await made.start()
            yield made
        finally:
            await made.aclose()
