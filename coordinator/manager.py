"""RunManager: the facade that gateways call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from coordinator import arguments as check
from coordinator.assembly import Assembly
from coordinator.assistants.decorator import Agents
from coordinator.assistants.function import AgentFunction, as_assistant
from coordinator.assistants.ports import Assistant
from coordinator.clock import Clocks
from coordinator.errors import InvalidArgument, RunFailed
from coordinator.event_log import EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.facade.catalogue import CatalogueFacade
from coordinator.facade.crons import CronsFacade
from coordinator.facade.finding import FindingFacade
from coordinator.facade.pending_work import PendingWorkFacade
from coordinator.facade.threads import ThreadsFacade
from coordinator.facade.views import ViewsFacade
from coordinator.facade.webhooks import WebhooksFacade
from coordinator.facade.worker import WorkerFacade
from coordinator.lock import SlotLock
from coordinator.locks.local import LocalSlotLock
from coordinator.notifier import Notifier
from coordinator.notifiers.local import LocalNotifier
from coordinator.record import RunRecord
from coordinator.runs.admission import asked
from coordinator.runs.bulk import Cancelled, cancel_in_pages
from coordinator.runs.timeouts import limits_of
from coordinator.schemas import Cause, DisconnectMode, Ended, Json, PersistenceRetryPolicy, RunStatus
from coordinator.settings import Settings
from coordinator.telemetry import Hook
from coordinator.workers.lease import Pacemaker
from stores.base import CoordinationStore
from stores.crons import Firing
from stores.memory import PrivateStore
from stores.plain import PlainStore
from stores.states import FAILED


class RunManager(
    WorkerFacade,
    ViewsFacade,
    CatalogueFacade,
    FindingFacade,
    ThreadsFacade,
    WebhooksFacade,
    CronsFacade,
    PendingWorkFacade,
):
    """Runs of this process, coordinated with those of every other process on the same store.

    What is not about the life of a run is inherited: `facade.worker`, `facade.views`,
    `facade.catalogue`, `facade.finding`, `facade.threads`, `facade.webhooks`, `facade.crons`,
    `facade.pending_work`.

    `RunManager()` keeps everything in memory; `RunManager(store)` takes a coordination store
    (`stores.sqlite`, `stores.memory`) or any store with only record operations, which then serves one
    process. It can be built without a running event loop: background work starts at the first
    admission or in `async with`. Use `open_coordinator` to have the adapters picked by URL.

    A manager lives in one event loop, that of its first call. A call from another one raises
    WrongEventLoop; other threads use `asyncio.run_coroutine_threadsafe`. Once that loop is closed, a manager
    on a store in memory moves to the loop of the next call; for a durable store, make a new manager.

    `assistants` by name, or such as have one: `launch` finds them, and their runs are portable: one that
    waits when its worker leaves or dies is run by another that has the same assistant. `pacemaker`, `clocks`:
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
        assistants: Agents | None = None,
        pacemaker: Pacemaker | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        chosen = notifier or LocalNotifier()
        parts = Assembly(
            _coordinated(store, persistence_retry_policy or PersistenceRetryPolicy()),
            settings or Settings(),
            notifier=chosen,
            slots=slots or LocalSlotLock(chosen),
            event_log=event_log or LocalEventLog(),
            hooks=hooks,
            assistants=assistants,
            pacemaker=pacemaker,
            clocks=clocks,
        )
        super().__init__(parts)

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

    @property
    def _runs(self) -> dict[str, RunRecord]:
        return self._anywhere.registry.records

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
        thread_must_exist: bool = False,
        adopt_thread: bool = True,
        temporary_thread: bool = False,
        timeout: check.TimeLimit = "default",
        idle_timeout: check.TimeLimit = "default",
        queue_timeout: check.TimeLimit = "default",
        after_seconds: float | None = None,
        webhook: str | None = None,
        firing: Firing | None = None,
    ) -> RunRecord:
        """Admit a run, atomically against every other admission on the thread, on any worker.

        `reject`: ConflictError while anything is in flight. `interrupt`, `rollback`: what is in flight
        is cancelled with that action once the new row is safe; the new run waits until the old task
        has stopped. `enqueue`: first in, first out.

        Limits in s ("default" = the setting, None = off), each ends the run with status `timeout`:
        `timeout` from its start, `idle_timeout` without event, save or progress, `queue_timeout` until
        its turn comes. A run with a `parent_run_id` is cancelled where that ends as anything but success;
        one that takes the place of its parent has none.
        `webhook`: the URL that is sent the run once it has settled, by a worker that delivers webhooks.
        `firing`: the moment of a cron that this run is for; CronFired where another run was.

        A thread that is not there is made by the first admission, unless `thread_must_exist`; one that
        is no user's becomes that of this user, or without `adopt_thread` is not there for him;
        `temporary_thread`: as one that is removed `keep_temporary` s after its last run settled.

        `after_seconds`: it joins its thread's line when that much time has passed by the store's clock, and
        survives restarts until then; its `created_at` is that moment. Who comes before it is not kept
        waiting. What its strategy does to others, it does now.

        Raises ConflictError, QueueFull, ThreadNotFound, RunNotFound and ParentEnded (of the parent),
        UnsupportedStrategyError, InvalidArgument, Draining, OutboxFull, StoreError.
        """
        parts = self._parts
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
            limits=limits_of(parts.settings, timeout, idle_timeout, queue_timeout),
            after_seconds=after_seconds,
            webhook=self._asked_for(webhook),
            firing=firing,
        )
        new.thread_must_exist = check.check_flag("thread_must_exist", thread_must_exist)
        new.adopt = check.check_flag("adopt_thread", adopt_thread)
        if check.check_flag("temporary_thread", temporary_thread):
            new.temporary_ms = parts.temporary_ms
            parts.expiry.begin()
        return await parts.admissions.admit(new)

    # -- running

    def launch(self, record: RunRecord, agent: AgentFunction | Assistant | None = None) -> asyncio.Task[Any]:
        """Run `async def agent(ctx: RunContext) -> result` as the run's task; it waits for its turn.
        Without an agent, the one that is registered under the run's assistant_id. Raises
        InvalidArgument for a run that this worker did not admit, or an assistant that it does not know."""
        run, parts = _record(record), self._parts
        if agent is None:
            return parts.execution.launch(run, parts.assistants.named(run.assistant_id))
        return parts.execution.launch(run, as_assistant(agent, parts.values))

    async def start(self, run_id: str) -> bool:
        """For callers with their own task: wait for the turn, then pending -> running. False = do not
        run: the record shows what won."""
        parts = self._parts
        entry = parts.registry.entry(check.check_id("run_id", run_id))
        if entry is None:
            return False
        if entry.started:
            return entry.open
        return await parts.lifecycle.start(entry, parts.values) is not None

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

    async def cancel_runs(
        self,
        run_ids: Sequence[str],
        *,
        action: str = "interrupt",
        reason: str | None = None,
        actor: str | None = None,
        cause: Cause | str = Cause.user,
        user_id: str | None = None,
        progress: Callable[[Cancelled], None] | None = None,
    ) -> Cancelled:
        """`cancel` each, a page at a time, and count; `progress` is told after each page. What is cancelled
        stays so where this breaks off: the same call again goes on. Raises as `cancel`."""

        async def cancel(run_id: str) -> bool:
            return await self.cancel(
                run_id, action=action, reason=reason, actor=actor, cause=cause, user_id=user_id
            )

        return await cancel_in_pages(cancel, run_ids, progress)

    async def disconnected(self, run_id: str, *, user_id: str | None = None) -> bool:
        """The run's last watcher has gone; from any worker, idempotent. Cancels with cause `disconnect`
        where the run was admitted with `on_disconnect="cancel"`: True, as `cancel`. Else nothing: False."""
        return await self._parts.cancellations.disconnected(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def wait(self, run_id: str, *, timeout: float | None = None, user_id: str | None = None) -> Json:
        """The run's result once it has settled, from any worker; None where it was interrupted.
        Raises RunNotFound, RunFailed (error, timeout), TimeoutError."""
        ended = await self.ended(run_id, timeout=timeout, user_id=user_id)
        if ended.status in FAILED:
            raise RunFailed(run_id, ended.status.value, ended.error)
        return ended.result

    async def ended(self, run_id: str, *, timeout: float | None = None, user_id: str | None = None) -> Ended:
        """As `wait`, and tells how the run ended whatever that was. Raises RunNotFound, TimeoutError."""
        return await self._parts.queries.ended(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            None if timeout is None else check.check_seconds("timeout", timeout),
        )

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
