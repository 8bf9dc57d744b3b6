"""`manager.worker`: this worker, its health, its drain, and its peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator import arguments as check
from coordinator.notifier import Connectivity, Notifier
from coordinator.runs.capacity import Capacity
from coordinator.runs.settlement import Settlement
from coordinator.settings import Settings
from coordinator.telemetry import Hook, Telemetry
from coordinator.workers.drain import Drain
from coordinator.workers.executor import TrackingExecutor
from coordinator.workers.health import Examination, Health
from coordinator.workers.lease import Pacemaker
from coordinator.workers.worker import Worker
from stores.base import WorkerStore
from stores.event_loop import HomeLoop
from stores.outbox import Outbox
from stores.rows import DrainRequested, WorkerRow


class ThisWorker:
    """This worker. Properties and methods that register a callback may be used from any thread."""

    def __init__(
        self,
        store: WorkerStore,
        settings: Settings,
        *,
        home: HomeLoop,
        worker: Worker,
        drain: Drain,
        settlement: Settlement,
        outbox: Outbox,
        notifier: Notifier,
        pacemaker: Pacemaker,
        examination: Examination,
        capacity: Capacity,
        telemetry: Telemetry,
    ) -> None:
        self._store, self._settings, self._home, self._worker = store, settings, home, worker
        self._drain, self._settlement, self._outbox = drain, settlement, outbox
        self._notifier, self._pacemaker, self._telemetry = notifier, pacemaker, telemetry
        self._examination, self._capacity = examination, capacity

    # -- drain

    async def drain(self, grace: float | None = None) -> None:
        """Drain this worker: it is not ready, admits nothing (`Draining`), and is `draining` in the workers
        table. Runs get `grace` (s; default: the setting) to finish; queued portable runs are handed over; the
        rest is cancelled with cause `shutdown`, and settled by force if a task does not stop. Cancels work
        throughout. Returns when no run is left on this worker, within `grace` + 4 s. A second call ends the
        grace of the first one early."""
        self._home.check()
        seconds = None if grace is None else check.check_seconds("grace", grace)
        self._drain.end_grace()
        await self._drain.run(seconds)

    async def request_drain(
        self, epoch: int | None = None, *, grace: float | None = None
    ) -> list[DrainRequested]:
        """Request a drain of the worker with that epoch, in any process; None = all workers. The request is
        stored, and read within a tick. Returns the drained workers, [] if no live worker has that epoch.
        `grace` (s); None = the setting of that worker. System scope. Raises StoreUnavailable."""
        self._home.check()
        return await self._drain.request(check.check_epoch(epoch), check.check_grace(grace))

    def before_requested_drain(self, depart: Callable[[], Awaitable[object]]) -> None:
        """Call `depart` before a drain that another process has requested, for at most 3 s: a server leaves
        its port to other workers, which still admit runs. It replaces an earlier one."""
        self._drain.depart = depart

    def end_grace(self) -> None:
        """End the grace of a drain in progress. No effect before a drain has begun."""
        self._home.check()
        self._drain.end_grace()

    @property
    def draining(self) -> bool:
        """Whether this worker drains: it admits no runs and is not ready."""
        return self._worker.drain_event.is_set()

    @property
    def grace(self) -> float:
        """The setting (s): how long runs may continue when this worker drains."""
        return self._settings.grace

    # -- health

    async def health(self) -> Health:
        """The state of this worker, role by role, and whether it is ready for new runs. Never raises; returns
        within about a second."""
        self._home.check()
        return await self._examination.health()

    def add_health_check(self, name: str, check: Callable[[], str | None]) -> None:
        """Call `check` at each `health` as well: if it returns a reason, the worker is not ready; None =
        ready. It is called in the event loop and must not block. The same name replaces it."""
        self._examination.checks[name] = lambda _: check()

    @property
    def epoch(self) -> int:
        """This worker's epoch; 0 before it registered."""
        return self._worker.epoch

    @property
    def connectivity(self) -> Connectivity:
        """The state of the transport of hints; `off` = store-only mode."""
        return self._notifier.connectivity

    @property
    def pending_writes(self) -> int:
        """The number of writes in the outbox, which wait for an unreachable store. At `outbox_limit`
        admission stops."""
        return len(self._outbox)

    @property
    def waiting_for_place(self) -> int:
        """The number of runs that hold their thread and wait until this worker may execute them
        (`max_running` and its like)."""
        return self._capacity.waiting

    @property
    def forced(self) -> int:
        """The number of runs of this worker that did not stop and were settled by force."""
        return self._settlement.forced

    @property
    def stalled_for(self) -> float:
        """Seconds for which the event loop has been blocked, 0 below 2 s. Read it from another thread, also
        while the loop is blocked. Always 0 if no thread watches the loop (stores in memory)."""
        stall = self._pacemaker.stall
        return 0.0 if stall is None else stall.stalled_for

    def observe_stalls(self, listener: Callable[[float], None]) -> None:
        """Call `listener` with `stalled_for` several times a second, from a thread, so also while the event
        loop is blocked. It must not block."""
        stall = self._pacemaker.stall
        if stall is not None:
            stall.listeners.append(listener)

    def observe(self, hook: Hook) -> None:
        """Emit further events to `hook` as well."""
        self._telemetry.add(hook)

    def store_counters(self) -> dict[str, int]:
        """Commits and reads of this manager's store so far; {} if the store does not count."""
        names = ("commits", "reads")
        return {name: getattr(self._store, name) for name in names if hasattr(self._store, name)}

    # -- its process and its peers

    def install_executor(self, size: int | None = None) -> None:
        """Make the default executor of the running loop one that tracks the thread jobs of runs: a job that
        outlives its run keeps the thread held, and is reported by `health`. `size`: threads (default: the
        setting). Once for each loop, before its default executor is used; it outlives the manager."""
        self._home.check()
        self._examination.executor = TrackingExecutor.install(size or self._settings.threads)

    async def fleet(self, *, alive_only: bool = True) -> list[WorkerRow]:
        """All workers as the store knows them, this one included. System scope."""
        self._home.check()
        return await self._store.workers(alive_only=check.check_flag("alive_only", alive_only))
