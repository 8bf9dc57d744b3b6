"""RunManager: the facade that gateways call."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from coordinator import arguments as check
from coordinator.assembly import Assembly
from coordinator.assistants.function import AgentFunction, as_assistant
from coordinator.assistants.ports import Assistant
from coordinator.clock import Clocks
from coordinator.errors import InvalidArgument
from coordinator.event_log import Event, EventLog, Gap
from coordinator.event_logs.local import LocalEventLog
from coordinator.events.follower import Follower
from coordinator.lock import SlotLock
from coordinator.locks.local import LocalSlotLock
from coordinator.notifier import Connectivity, Notifier
from coordinator.notifiers.local import LocalNotifier
from coordinator.record import RunRecord
from coordinator.runs.admission import asked
from coordinator.runs.queries import Explanation
from coordinator.runs.recovery import Recovery
from coordinator.runs.timeouts import limits_of
from coordinator.schemas import Cause, DisconnectMode, Json, PersistenceRetryPolicy, Receipt, RunStatus
from coordinator.settings import Settings
from coordinator.telemetry import Hook
from coordinator.workers.health import Health
from coordinator.workers.lease import Pacemaker
from stores.base import CoordinationStore
from stores.memory import PrivateStore
from stores.plain import PlainStore
from stores.rows import Ownership, RunRow, ThreadRow, WorkerRow


class RunManager:
    """Runs of this process, coordinated with those of every other process on the same store.

    `RunManager()` keeps everything in memory; `RunManager(store)` takes a coordination store
    (`stores.sqlite`, `stores.memory`) or any store with only record operations, which then serves one
    process. It can be built without a running event loop: background work starts at the first
    admission or in `async with`. Use `open_coordinator` to have the adapters picked by URL.

    `assistants` by assistant_id: `launch` finds them, and their runs are portable: one that waits when
    its worker leaves or dies is run by another that has the same assistant. `pacemaker`, `clocks`:
    where heartbeats and times come from, for simulations.
    """

    def __init__(
        self,
        store: Any = None,
        *,
        persistence_retry_policy: PersistenceRetryPolicy | None = None,
        settings: Settings | None = None,
        notifier: Notifier | None = None,
        slots: SlotLock | None = None,
        event_log: EventLog | None = None,
        hooks: Iterable[Hook] = (),
        assistants: Mapping[str, AgentFunction | Assistant] | None = None,
        pacemaker: Pacemaker | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self._store = _coordinated(store, persistence_retry_policy or PersistenceRetryPolicy())
        self._notifier = notifier or LocalNotifier()
        self._parts = Assembly(
            self._store,
            settings or Settings(),
            notifier=self._notifier,
            slots=slots or LocalSlotLock(self._notifier),
            event_log=event_log or LocalEventLog(),
            hooks=hooks,
            assistants=assistants,
            pacemaker=pacemaker,
            clocks=clocks,
        )
        self._recovery = Recovery(self._store, self._parts.reaper, self._parts.worker)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the store, register this worker, begin its loops. Raises StoreError."""
        await self._store.open()
        await self._parts.worker.ready()

    async def aclose(self) -> None:
        """Shut down with the configured grace, then let go of store and transport. Idempotent."""
        await self._parts.close(None)

    async def shutdown(self, *, timeout: float | None = None) -> None:
        """Stop admitting; let runs finish for `timeout` s (default: the `grace` setting); cancel the
        tasks of the rest, and decide only those that do not end by themselves. Bounded; idempotent."""
        await self._parts.drain.run(None if timeout is None else check.check_seconds("timeout", timeout))

    async def drain(self, grace: float | None = None) -> None:
        """Leave in good order: not ready, admits nothing (`Draining`), `draining` in the workers table.
        Runs get `grace` s (default: the setting) to finish; waiting portable ones are handed over; what is
        left is cancelled with cause `shutdown`, the deaf settled by force. Cancels work all the while.
        Returns when no run is left here, within `grace` + 4 s. A second call hurries the first."""
        seconds = None if grace is None else check.check_seconds("grace", grace)
        self._parts.drain.hurry()
        await self._parts.drain.run(seconds)

    def hurry(self) -> None:
        """The grace of a drain that is under way ends now."""
        self._parts.drain.hurry()

    @property
    def draining(self) -> bool:
        """It admits nothing any more: readiness is red."""
        return self._parts.worker.drain_event.is_set()

    @property
    def grace(self) -> float:
        """The setting: s that runs get to finish when this worker drains."""
        return self._parts.settings.grace

    @property
    def forced(self) -> int:
        """How many runs of this worker did not stop and were settled by force."""
        return self._parts.settlement.forced

    @property
    def _runs(self) -> dict[str, RunRecord]:
        return self._parts.registry.records

    @property
    def epoch(self) -> int:
        """This worker's epoch; 0 before it registered."""
        return self._parts.worker.epoch

    @property
    def connectivity(self) -> Connectivity:
        """How well hints travel; `off` = store-only mode."""
        return self._notifier.connectivity

    @property
    def owed(self) -> int:
        """How many writes wait for the store, which is away. At `outbox_limit` admission stops."""
        return len(self._parts.outbox)

    async def health(self) -> Health:
        """How this worker is, role by role, and whether it may be sent new runs. Never raises; answers
        within a second and a bit."""
        return await self._parts.examination.health()

    def store_counters(self) -> dict[str, int]:
        """Commits and reads of this manager's store so far; {} where the store does not count."""
        names = ("commits", "reads")
        return {name: getattr(self._store, name) for name in names if hasattr(self._store, name)}

    # -- admission

    async def create(
        self,
        thread_id: str,
        assistant_id: str | None = None,
        *,
        on_disconnect: DisconnectMode | str = DisconnectMode.cancel,
        metadata: dict[str, Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        multitask_strategy: str = "reject",
        model_name: str | None = None,
        user_id: str | None = None,
        timeout: check.TimeLimit = "default",
        idle_timeout: check.TimeLimit = "default",
    ) -> RunRecord:
        """A pending run without the one-run-per-thread rule (imports, repairs). Visible only if its
        row was written. Raises InvalidArgument, UnsupportedStrategyError, StoreError."""
        new = asked(
            thread_id=thread_id,
            assistant_id=assistant_id,
            on_disconnect=on_disconnect,
            metadata=metadata,
            kwargs=kwargs,
            multitask_strategy=multitask_strategy,
            model_name=model_name,
            user_id=user_id,
            limits=limits_of(self._parts.settings, timeout, idle_timeout, None),
        )
        return await self._parts.admissions.insert(new)

    async def create_or_reject(
        self,
        thread_id: str,
        assistant_id: str | None = None,
        *,
        on_disconnect: DisconnectMode | str = DisconnectMode.cancel,
        metadata: dict[str, Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        multitask_strategy: str = "reject",
        model_name: str | None = None,
        user_id: str | None = None,
        idempotency_key: str | None = None,
        parent_run_id: str | None = None,
        timeout: check.TimeLimit = "default",
        idle_timeout: check.TimeLimit = "default",
        queue_timeout: check.TimeLimit = "default",
    ) -> RunRecord:
        """Admit a run, atomically against every other admission on the thread, on any worker.

        `reject`: ConflictError while anything is in flight. `interrupt`, `rollback`: what is in flight
        is cancelled with that action once the new row is safe; the new run waits until the old task
        has stopped. `enqueue`: first in, first out.

        Limits in s ("default" = the setting, None = off), each ends the run with status `timeout`:
        `timeout` from its start, `idle_timeout` without event, save or progress, `queue_timeout` until
        its turn comes. A run with a `parent_run_id` is cancelled where that ends as anything but success.

        Raises ConflictError, QueueFull, ThreadNotFound, RunNotFound and ParentEnded (of the parent),
        UnsupportedStrategyError, InvalidArgument, Draining, OutboxFull, StoreError.
        """
        new = asked(
            thread_id=thread_id,
            assistant_id=assistant_id,
            on_disconnect=on_disconnect,
            metadata=metadata,
            kwargs=kwargs,
            multitask_strategy=multitask_strategy,
            model_name=model_name,
            user_id=user_id,
            idempotency_key=idempotency_key,
            parent_run_id=parent_run_id,
            limits=limits_of(self._parts.settings, timeout, idle_timeout, queue_timeout),
        )
        return await self._parts.admissions.admit(new)

    # -- running

    def launch(self, record: RunRecord, agent: AgentFunction | Assistant | None = None) -> asyncio.Task[Any]:
        """Run `async def agent(ctx: RunContext) -> result` as the run's task; it waits for its turn.
        Without an agent, the one that is registered under the run's assistant_id. Raises
        InvalidArgument for a run that this worker did not admit, or an assistant that it does not know."""
        run = _record(record)
        if agent is None:
            return self._parts.execution.launch(run, self._parts.assistants.named(run.assistant_id))
        return self._parts.execution.launch(run, as_assistant(agent, self._parts.values))

    async def start(self, run_id: str) -> bool:
        """For callers with their own task: wait for the turn, then pending -> running. False = do not
        run: the record shows what won."""
        entry = self._parts.registry.entry(check.check_id("run_id", run_id))
        if entry is None:
            return False
        if entry.started:
            return entry.open
        return await self._parts.lifecycle.start(entry, self._parts.values) is not None

    async def set_status(self, run_id: str, status: RunStatus | str, *, error: str | None = None) -> None:
        """Unknown runs are logged and ignored. `running` waits for the run's turn. A terminal status
        never changes again. A run with no live task attached is settled with its decision."""
        check.check_id("run_id", run_id)
        await self._parts.lifecycle.set_status(
            run_id, check.check_status(status), check.check_text("error", error)
        )

    async def update_model_name(self, run_id: str, name: str | None) -> None:
        """Persisted, best effort."""
        check.check_id("run_id", run_id)
        await self._parts.lifecycle.update_model_name(run_id, check.check_model_name(name))

    async def update_run_completion(self, run_id: str, **fields: Any) -> None:
        """Final counters; never the record's status. A row that vanished is written anew, once."""
        check.check_id("run_id", run_id)
        await self._parts.lifecycle.update_completion(run_id, check.check_counters(fields))

    async def update_run_progress(self, run_id: str, **fields: Any) -> None:
        """A snapshot of counters while the run is running; otherwise ignored."""
        check.check_id("run_id", run_id)
        await self._parts.lifecycle.update_progress(run_id, check.check_counters(fields))

    # -- cancelling and waiting

    async def cancel(
        self,
        run_id: str,
        *,
        action: str = "interrupt",
        reason: str | None = None,
        actor: str | None = None,
        cause: Cause | str = Cause.user,
        user_id: str | None = None,
        wait: float | None = None,
    ) -> bool:
        """Cancel a run, wherever it is: committed, then acknowledged, then published.

        True when it is interrupted now or was before; False for an unknown run or another terminal
        status. `wait` (s) returns only when the task has stopped and the thread is free, else raises
        NotSettled. Raises StoreUnavailable, CancelNotDurable.
        """
        return await self._parts.cancellations.cancel(
            check.check_id("run_id", run_id),
            action=check.check_action(action),
            cause=check.check_cause(cause),
            reason=check.check_text("reason", reason),
            actor=check.check_text("actor", actor),
            user_id=check.check_optional_id("user_id", user_id),
            wait=None if wait is None else check.check_seconds("wait", wait),
        )

    async def disconnected(self, run_id: str, *, user_id: str | None = None) -> bool:
        """The run's last watcher has gone; from any worker, idempotent. Cancels with cause `disconnect`
        where the run was admitted with `on_disconnect="cancel"`: True, as `cancel`. Else nothing: False."""
        return await self._parts.cancellations.disconnected(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def wait(self, run_id: str, *, timeout: float | None = None, user_id: str | None = None) -> Json:
        """The run's result once it has settled, from any worker; None where it was interrupted.
        Raises RunNotFound, RunFailed (error, timeout), TimeoutError."""
        return await self._parts.queries.wait(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            None if timeout is None else check.check_seconds("timeout", timeout),
        )

    # -- events

    def follow(
        self,
        run_id: str,
        *,
        after: str | None = None,
        modes: Collection[str] | None = None,
        user_id: str | None = None,
    ) -> Follower:
        """Iterate over what a run emits, wherever it runs: from the beginning, after the id of an event, or
        (`"$"`) only from now on; first what its log has, then live. Ends with exactly one `End`, once the
        run has settled, also if its log is gone or its owner dead; what is missing is told as a `Gap`.

        `modes` leaves others out (`updates` includes `updates|<subgraph>`). `async with` ends the
        subscription with the block. Raises InvalidArgument; RunNotFound while iterating.
        """
        return self._parts.readers.follow(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_modes("modes", modes),
            check.check_optional_id("user_id", user_id),
        )

    async def events(
        self, run_id: str, *, after: str | None = None, limit: int = 1000, user_id: str | None = None
    ) -> list[Event | Gap]:
        """What the run's log has now, without waiting; at most `limit` events. Raises RunNotFound."""
        return await self._parts.readers.read(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_limit("limit", limit),
            check.check_optional_id("user_id", user_id),
        )

    # -- reading

    async def get(
        self, run_id: str, *, user_id: str | None = None, raise_on_store_error: bool = False
    ) -> RunRecord | None:
        """Own memory first, else the store. `raise_on_store_error` tells "missing" from "store down"."""
        return await self._parts.queries.get(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            raise_on_store_error=check.check_flag("raise_on_store_error", raise_on_store_error),
        )

    async def aget(self, run_id: str, *, user_id: str | None = None) -> RunRecord | None:
        """Alias of `get`."""
        return await self.get(run_id, user_id=user_id)

    async def list_by_thread(
        self, thread_id: str, *, user_id: str | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Newest first, memory and store merged by run id. Store failure: memory alone."""
        return await self._parts.queries.list_by_thread(
            check.check_id("thread_id", thread_id),
            check.check_optional_id("user_id", user_id),
            check.check_limit("limit", limit),
        )

    async def has_inflight(self, thread_id: str) -> bool:
        """Anything in flight on the thread, on any worker."""
        return await self._parts.queries.has_inflight(check.check_id("thread_id", thread_id))

    async def explain(self, run_id: str, *, user_id: str | None = None) -> Explanation:
        """Who decided what, when and why. Raises RunNotFound."""
        return await self._parts.queries.explain(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def receipt(self, run_id: str, *, user_id: str | None = None) -> Receipt:
        """The four times of a cancel. Raises RunNotFound."""
        return await self._parts.queries.receipt(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def runs(
        self,
        *,
        thread_id: str | None = None,
        statuses: Sequence[str] = (),
        in_flight: bool = False,
        limit: int = 100,
    ) -> list[RunRow]:
        """Rows of the store, newest first. System scope: for operators."""
        wanted = check.check_statuses(statuses)
        thread = check.check_optional_id("thread_id", thread_id)
        bound = check.check_limit("limit", limit)
        flag = check.check_flag("in_flight", in_flight)
        return await self._store.runs(thread_id=thread, statuses=wanted, in_flight=flag, limit=bound)

    async def workers(self, *, alive_only: bool = True) -> list[WorkerRow]:
        """Workers as the store knows them. System scope."""
        return await self._store.workers(alive_only=check.check_flag("alive_only", alive_only))

    # -- threads

    async def thread(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow | None:
        """The thread with its derived status and values."""
        return await self._parts.queries.thread(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    async def update_thread(self, thread_id: str, values: Json, *, user_id: str | None = None) -> None:
        """Replace the thread's values as a short holder. Raises ConflictError while a run is in flight."""
        await self._parts.operations.update_values(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            check.check_optional_id("user_id", user_id),
        )

    async def copy_thread(self, source: str, target: str, *, user_id: str | None = None) -> None:
        """Give `target` the values of `source`. Raises ThreadNotFound, ConflictError."""
        await self._parts.operations.copy(
            check.check_id("source", source),
            check.check_id("target", target),
            check.check_optional_id("user_id", user_id),
        )

    async def delete_thread(self, thread_id: str, *, user_id: str | None = None) -> None:
        """Remove the thread, its values and its runs. Raises ThreadNotFound, ConflictError."""
        await self._parts.operations.delete(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    def operation(
        self, thread_id: str, name: str, *, user_id: str | None = None
    ) -> AbstractAsyncContextManager[Ownership]:
        """Hold a thread for a short operation of the caller's own."""
        return self._parts.operations.holding(
            check.check_id("thread_id", thread_id),
            check.check_id("name", name),
            check.check_optional_id("user_id", user_id),
        )

    # -- upkeep

    async def reconcile_orphaned_inflight_runs(
        self, *, error: str, before: str | None = None
    ) -> list[RunRecord]:
        """End what no live worker owns, with that error text; answer what this call ended. `before`
        (ISO 8601) limits by created_at. Never touches a run whose owner lives."""
        text = check.check_text("error", error)
        if text is None:
            raise InvalidArgument("error", "must be a str, not None")
        return await self._recovery.reconcile(text, check.check_instant("before", before))

    async def cleanup(self, run_id: str, *, delay: float = 300) -> None:
        """Drop the in-memory record after `delay` s. Without a durable store the run is gone then."""
        check.check_id("run_id", run_id)
        await asyncio.sleep(check.check_seconds("delay", delay))
        await self._parts.lifecycle.forget(run_id)


def _record(value: object) -> RunRecord:
    if not isinstance(value, RunRecord):
        raise InvalidArgument("record", f"must be a RunRecord, not {type(value).__name__}")
    return value


def _coordinated(store: Any, policy: PersistenceRetryPolicy) -> CoordinationStore:
    if store is None:
        return PrivateStore()
    if isinstance(store, CoordinationStore):
        return store
    return PlainStore(store, policy)
