"""This worker among its peers: how it is, how it leaves, and what it does for those that are dead."""

from __future__ import annotations

from collections.abc import Callable

from coordinator import arguments as check
from coordinator.errors import InvalidArgument
from coordinator.facade.base import Facade
from coordinator.notifier import Connectivity
from coordinator.record import RunRecord
from coordinator.runs.recovery import Recovery
from coordinator.telemetry import Hook
from coordinator.workers.health import Health
from stores.rows import AskedToDrain, WorkerRow


class WorkerFacade(Facade):
    async def drain(self, grace: float | None = None) -> None:
        """Leave in good order: not ready, admits nothing (`Draining`), `draining` in the workers table.
        Runs get `grace` s (default: the setting) to finish; waiting portable ones are handed over; what is
        left is cancelled with cause `shutdown`, the deaf settled by force. Cancels work all the while.
        Returns when no run is left here, within `grace` + 4 s. A second call hurries the first."""
        seconds = None if grace is None else check.check_seconds("grace", grace)
        self._parts.drain.hurry()
        await self._parts.drain.run(seconds)

    async def ask_to_drain(
        self, epoch: int | None = None, *, grace: float | None = None
    ) -> list[AskedToDrain]:
        """Ask a worker, whichever process it is, to leave as with `drain`; None = all. Written down in the
        store, so that it finds out within a tick; answers who was asked, [] where nobody of that epoch
        lives. `grace`: s; None = its own setting. System scope. Raises StoreUnavailable."""
        return await self._parts.drain.ask(check.check_epoch(epoch), check.check_grace(grace))

    def install_executor(self, size: int | None = None) -> None:
        """Make the default executor of the running loop one that knows its runs: a thread job that outlives
        its run keeps the thread held, and shows in `health`. `size`: threads (default: the setting). Once
        for each loop, before anything uses its default executor."""
        self._parts.install_executor(size)

    def hurry(self) -> None:
        """The grace of a drain that is under way ends now."""
        self._parts.drain.hurry()

    @property
    def draining(self) -> bool:
        """It admits nothing any more: readiness is red."""
        return self._anywhere.worker.drain_event.is_set()

    @property
    def grace(self) -> float:
        """The setting: s that runs get to finish when this worker drains."""
        return self._anywhere.settings.grace

    @property
    def forced(self) -> int:
        """How many runs of this worker did not stop and were settled by force."""
        return self._anywhere.settlement.forced

    @property
    def epoch(self) -> int:
        """This worker's epoch; 0 before it registered."""
        return self._anywhere.worker.epoch

    @property
    def connectivity(self) -> Connectivity:
        """How well hints travel; `off` = store-only mode."""
        return self._anywhere.notifier.connectivity

    @property
    def owed(self) -> int:
        """How many writes wait for the store, which is away. At `outbox_limit` admission stops."""
        return len(self._anywhere.outbox)

    @property
    def stalled_for(self) -> float:
        """How long the event loop has not turned (s), 0 below 2 s. Right while it stands: ask from another
        thread. Also 0 where no thread watches the loop (stores in memory)."""
        stall = self._anywhere.pacemaker.stall
        return 0.0 if stall is None else stall.stalled_for

    def observe_stalls(self, listener: Callable[[float], None]) -> None:
        """Call `listener` with `stalled_for` several times a second, from a thread, so also while the event
        loop stands still. It must not block."""
        stall = self._anywhere.pacemaker.stall
        if stall is not None:
            stall.listeners.append(listener)

    async def health(self) -> Health:
        """How this worker is, role by role, and whether it may be sent new runs. Never raises; answers
        within a second and a bit."""
        return await self._parts.examination.health()

    def add_health_check(self, name: str, check: Callable[[], str | None]) -> None:
        """Ask `check` at each `health` as well: a sentence makes the worker not ready, None does not. It is
        called in the event loop and must not block. The same name again replaces it."""
        self._anywhere.examination.checks[name] = lambda _: check()

    def observe(self, hook: Hook) -> None:
        """Tell `hook` what happens from now on, as those that the manager was made with."""
        self._anywhere.telemetry.add(hook)

    def store_counters(self) -> dict[str, int]:
        """Commits and reads of this manager's store so far; {} where the store does not count."""
        names = ("commits", "reads")
        store = self._anywhere.store
        return {name: getattr(store, name) for name in names if hasattr(store, name)}

    async def workers(self, *, alive_only: bool = True) -> list[WorkerRow]:
        """Workers as the store knows them. System scope."""
        return await self._store.workers(alive_only=check.check_flag("alive_only", alive_only))

    async def reconcile_orphaned_inflight_runs(
        self, *, error: str, before: str | None = None
    ) -> list[RunRecord]:
        """End what no live worker owns, with that error text; answer what this call ended. `before`
        (ISO 8601) limits by created_at. Never touches a run whose owner lives."""
        text = check.check_text("error", error)
        if text is None:
            raise InvalidArgument("error", "must be a str, not None")
        parts = self._parts
        recovery = Recovery(parts.store, parts.reaper, parts.worker)
        return await recovery.reconcile(text, check.check_instant("before", before))
