"""RunManager: the life of a run. Its attributes have all other methods: see `coordinator.resources`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from coordinator import arguments as check
from coordinator.assembly import resources
from coordinator.assembly.whole import Assembly
from coordinator.assistants.decorator import Agents
from coordinator.assistants.function import AgentFunction, as_assistant
from coordinator.assistants.ports import Assistant
from coordinator.clock import Clocks
from coordinator.context import BlockContext
from coordinator.errors import RunFailed
from coordinator.event_log import Event, EventLog, Gap
from coordinator.events.follower import Follower
from coordinator.lock import SlotLock
from coordinator.notifier import Notifier
from coordinator.record import RunRecord, RunTask
from coordinator.record_methods import RecordMethods
from coordinator.runs.blocks import OnPendingCancel
from coordinator.schemas import Cause, DisconnectMode, Ended, Json, PersistenceRetryPolicy, RunStatus, User
from coordinator.settings import Settings
from coordinator.telemetry import Hook
from coordinator.workers.lease import Pacemaker
from stores.crons import Firing
from stores.json_values import JsonObject
from stores.plain import coordinated
from stores.spec import RunSpec
from stores.states import FAILED

_NOT_LAUNCHED = (
    ". The run stays admitted: launch it with a function, or cancel it. Else it ends after launch_timeout"
)


class RunManager(RecordMethods):
    """Runs of this process, coordinated with those of every other process on the same store.
    Its nouns (`threads`, `runs`, `crons`, `projections`, ...) have the methods beyond the life of one run.

    `RunManager()` keeps all in memory; `RunManager(store)` takes a coordination store (of `stores`) or any
    store with only record operations, for one process. `open_coordinator` picks the adapters by URL. It needs
    no event loop when it is built: background work starts at the first admission or in `async with`. It lives
    in one event loop, that of its first call. A call from another one raises WrongEventLoop; other threads
    use `asyncio.run_coroutine_threadsafe`. Once that loop is closed, a manager on a store in memory moves to
    the loop of the next call; for a durable store, make a new manager.

    `assistants`: by name, or a collection of assistants that have names. Their runs are portable: another
    worker with the assistant takes them over if this one drains or dies while they are queued, or while they
    run and have `retries`. `pacemaker`, `clocks`: the source of heartbeats and times, for simulations."""

    def __init__(
        self,
        store: Any = None,  # Any: also a store of the caller's own, see stores.plain
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
        parts = self._parts = Assembly(
            coordinated(check.check_store(store), persistence_retry_policy or PersistenceRetryPolicy()),
            settings or Settings(),
            notifier=notifier,
            slots=slots,
            event_log=event_log,
            hooks=hooks,
            assistants=assistants,
            pacemaker=pacemaker,
            clocks=clocks,
        )
        self._take(parts)
        self.store = parts.shared.store
        """As a coordination store. A write to it bypasses the manager, which learns of it as of another's."""
        self.assistants = parts.shared.assistants
        """The assistants of this worker, by name or UUID; `register` more before the manager opens."""
        self.threads, self.runs = resources.threads_of(parts), resources.runs_of(parts)
        self.crons, self.webhooks = resources.crons_of(parts), resources.webhooks_of(parts)
        self.projections, self.streams = resources.projections_of(parts), resources.streams_of(parts)
        self.client_assistants = resources.client_assistants_of(parts)
        self.worker, self._specs = resources.worker_of(parts), resources.specs_of(parts, self.webhooks)

    def _take(self, parts: Assembly) -> None:
        """Sets the collaborators that the methods of this class call."""
        shared, runs = parts.shared, parts.runs
        self._home = shared.home
        self._runs, self._values, self._worker = shared.registry.records, shared.values, shared.worker
        self._admissions, self._execution, self._lifecycle = runs.admissions, runs.execution, runs.lifecycle
        self._cancellations, self._queries, self._readers = runs.cancellations, runs.queries, runs.readers
        self._blocks, self._extras = runs.blocks, runs.extras
        self._drain, self._expiry, self._recovery = parts.drain, parts.expiry, parts.recovery

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the store and storages of state, register this worker, start its loops. Raises StoreError."""
        self._home.check()
        await self._parts.open()

    async def aclose(self) -> None:
        """Shut down with the configured grace, then close store and transport. Idempotent."""
        self._home.check()
        await self._parts.close(None)

    async def shutdown(self, *, timeout: float | None = None) -> None:
        """Stop admitting; let runs finish for `timeout` (s; default: the `grace` setting); cancel the tasks
        of the rest, and decide only runs whose task does not end by itself. Bounded; idempotent."""
        self._home.check()
        await self._drain.run(None if timeout is None else check.check_seconds("timeout", timeout))

    async def create(
        self,
        thread_id: str,
        assistant_id: str | None = None,
        *,
        on_disconnect: DisconnectMode | str = DisconnectMode.cancel,
        metadata: JsonObject | None = None,
        kwargs: JsonObject | None = None,
        multitask_strategy: str = "reject",
        model_name: str | None = None,
        user_id: str | None = None,
        timeout: check.TimeLimit = "default",
        idle_timeout: check.TimeLimit = "default",
    ) -> RunRecord:
        """Create a pending run without the one-run-per-thread rule (imports, repairs). It is visible only if
        its row was written. Raises InvalidArgument, UnsupportedStrategyError, StoreError."""
        spec = self.spec(
            thread_id,
            assistant_id,
            on_disconnect=on_disconnect,
            metadata=metadata,
            kwargs=kwargs,
            multitask_strategy=multitask_strategy,
            model_name=model_name,
            user_id=user_id,
            timeout=timeout,
            idle_timeout=idle_timeout,
            queue_timeout=None,
        )
        return await self._admissions.insert(spec)

    async def create_or_reject(
        self,
        thread_id: str,
        assistant_id: str | None = None,
        *,
        on_disconnect: DisconnectMode | str = DisconnectMode.cancel,
        metadata: JsonObject | None = None,
        kwargs: JsonObject | None = None,
        multitask_strategy: str = "reject",
        model_name: str | None = None,
        user_id: str | None = None,
        user: User | None = None,
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
        extra: JsonObject | None = None,
    ) -> RunRecord:
        """Admit a run, atomically against every other admission on the thread, on any worker.

        `reject` raises ConflictError while a run is in flight; `interrupt`, `rollback` cancel those in flight
        once the new row is committed, and start it when their tasks have stopped; `enqueue`: in order.

        Limits (s; "default" = the setting, None = none), which end the run with status `timeout`: `timeout`
        from its start, `idle_timeout` without event, save, step or progress, `queue_timeout` in the queue.
        `parent_run_id`: the run is cancelled when its parent ends as anything but success. `webhook`: URL to
        which a delivering worker sends the settled run. `firing`: of a cron; CronFired if it has a run.

        Creates the thread if it does not exist (unless `thread_must_exist`); with `temporary_thread`, it is
        removed `keep_temporary` (s) after its last run settled. A thread without an owner is assigned to
        `user_id`; with `adopt_thread=False` ThreadNotFound is raised instead. `user`: in place of `user_id`,
        with permissions and attributes. `after_seconds`: delay by the store's clock before the run joins the
        queue. Until then it blocks no other run. Its `created_at` is that time; its strategy acts at once.
        `extra`: fields of the caller's own (JSON, at most 16 KiB), which `get` and the lists of this class
        return; see `update_run_completion`.

        Raises ConflictError, QueueFull, ThreadNotFound, RunNotFound and ParentEnded (of the parent),
        UnsupportedStrategyError, InvalidArgument, Draining, OutboxFull, StoreError."""
        spec = self.spec(
            thread_id,
            assistant_id,
            on_disconnect=on_disconnect,
            metadata=metadata,
            kwargs=kwargs,
            multitask_strategy=multitask_strategy,
            model_name=model_name,
            user_id=user_id,
            user=user,
            idempotency_key=idempotency_key,
            parent_run_id=parent_run_id,
            thread_must_exist=thread_must_exist,
            adopt_thread=adopt_thread,
            temporary_thread=temporary_thread,
            timeout=timeout,
            idle_timeout=idle_timeout,
            queue_timeout=queue_timeout,
            after_seconds=after_seconds,
            webhook=webhook,
            firing=firing,
            extra=extra,
        )
        return await self.admit(spec)

    def spec(self, thread_id: str, assistant_id: str | None = None, **arguments: Any) -> RunSpec:
        """The run that `create_or_reject` would admit with these arguments (Any: each is checked); it is not
        admitted. Raises InvalidArgument, UnsupportedStrategyError."""
        self._home.check()
        return self._specs.build(thread_id, assistant_id, **arguments)

    async def admit(self, spec: RunSpec, *, start: bool = False, validated: bool = False) -> RunRecord:
        """As `create_or_reject`, for a spec of `spec`, which is not validated again; `validated`: nor by its
        assistant. `start`: the caller launches the record at once; where its assistant is a registered
        function, the row is `running` as soon as the run has its thread."""
        self._home.check()
        checked = check.check_instance("spec", spec, RunSpec)
        if checked.temporary_ms is not None:
            self._expiry.begin()
        return await self._admissions.admit(checked, start=bool(start), validated=validated)

    def launch(
        self, record: RunRecord, agent: AgentFunction | Assistant | None = None, *, user: User | None = None
    ) -> RunTask:
        """Run `agent` (default: the run's assistant) as the run's task, once the run holds its thread.
        `user`: for `ctx.user`. Raises InvalidArgument (not admitted by this worker, no such assistant)."""
        self._home.check()
        run = check.check_instance("record", record, RunRecord)
        if agent is None:
            assistant = self.assistants.named(run.assistant_id, remedy=_NOT_LAUNCHED)
        else:
            assistant = as_assistant(agent, self._values)
        return self._execution.launch(run, assistant, user)

    def running(
        self, record: RunRecord, *, on_pending_cancel: OnPendingCancel = "cancel"
    ) -> AbstractAsyncContextManager[BlockContext]:
        """For callers with a task of their own: `async with manager.running(record) as ctx:` makes the block
        the code of the run, and the current task its task until the block is left.

        Enters the block when the run holds its thread and has a place. A cancel or a time limit, from any
        worker, sets `ctx.abort` and cancels the task. When the block is left, the run settles: as
        `ctx.end(…)` has decided, else as success, as an error if an exception leaves the block, as
        interrupted if the task was cancelled. Exceptions propagate. The thread is free only then, even if the
        run was decided before.

        A cancel before the block is entered cancels the task; with `on_pending_cancel="raise"`,
        RunNotStarted is raised instead, so that the task can go on. Leave `record.task` to this method: a
        task that is attached earlier is cancelled like any other.

        Entering raises RunNotStarted (the run has ended), InvalidArgument (not admitted by this worker,
        started before, or with another task), LeaseLost, StoreError."""
        self._home.check()
        return self._blocks.running(
            check.check_instance("record", record, RunRecord),
            check.check_on_pending_cancel(on_pending_cancel),
        )

    async def start(self, run_id: str) -> bool:
        """For tasks of callers: wait until the run holds its thread, then pending -> running. Returns False
        if it must not run: its record has the decision."""
        self._home.check()
        return await self._lifecycle.start_by_id(check.check_id("run_id", run_id))

    async def set_status(self, run_id: str, status: RunStatus | str, *, error: str | None = None) -> None:
        """Unknown runs are logged and ignored. `running` waits until the run holds its thread. A terminal
        status never changes again. A run without a live task is settled with its decision."""
        self._home.check()
        check.check_id("run_id", run_id)
        await self._lifecycle.set_status(run_id, check.check_status(status), check.check_text("error", error))

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
        """Cancel a run on any worker: committed, then acknowledged, then published. Returns True if it is
        interrupted now or was before; False if it is unknown or has another terminal status. With `wait` (s),
        returns when the task has stopped and the thread is free, else raises NotSettled. `runs.cancel_one`
        returns what counts in place of a bool. Raises StoreUnavailable, CancelNotDurable."""
        answer = await self.runs.cancel_one(
            run_id, action=action, reason=reason, actor=actor, cause=cause, user_id=user_id, wait=wait
        )
        return bool(answer)

    async def disconnected(self, run_id: str, *, user_id: str | None = None) -> bool:
        """Report that the run's client has disconnected; from any worker, idempotent. Which client counts is
        up to the caller: over HTTP the one whose request has created the run, also while others follow it.
        Cancels a run that was admitted with `on_disconnect="cancel"`, with cause `disconnect`. Returns
        whether it did."""
        self._home.check()
        return await self._cancellations.disconnected(
            check.check_id("run_id", run_id), check.check_optional_id("user_id", user_id)
        )

    async def wait(self, run_id: str, *, timeout: float | None = None, user_id: str | None = None) -> Json:
        """The run's result once it has settled, from any worker; None if it was interrupted. Raises
        RunNotFound, RunFailed (error, timeout), TimeoutError."""
        ended = await self.ended(run_id, timeout=timeout, user_id=user_id)
        if ended.status in FAILED:
            raise RunFailed(run_id, ended.status.value, ended.error)
        return ended.result

    async def ended(self, run_id: str, *, timeout: float | None = None, user_id: str | None = None) -> Ended:
        """As `wait`, but returns the end of the run whatever it was. Raises RunNotFound, TimeoutError."""
        self._home.check()
        return await self._queries.ended(
            check.check_id("run_id", run_id),
            check.check_optional_id("user_id", user_id),
            None if timeout is None else check.check_seconds("timeout", timeout),
        )

    def follow(
        self,
        run_id: str,
        *,
        after: str | None = None,
        modes: Collection[str] | None = None,
        user_id: str | None = None,
    ) -> Follower:
        """Iterate over the events of a run on any worker: from the beginning, after the id of an event, or
        (`"$"`) only from now on; first those in its log, then live. Ends with exactly one `End` when the run
        has settled, also if its log is lost or its owner dead. Missing events are reported as a `Gap`.
        `modes` excludes all others (`updates` includes `updates|<subgraph>`). `async with` ends the
        subscription with the block. Raises InvalidArgument; RunNotFound while iterating."""
        self._home.check()
        return self._readers.follow(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_modes("modes", modes),
            check.check_optional_id("user_id", user_id),
        )

    async def events(
        self, run_id: str, *, after: str | None = None, limit: int = 1000, user_id: str | None = None
    ) -> list[Event | Gap]:
        """The events that the run's log has now, at most `limit`; does not wait. Raises RunNotFound."""
        self._home.check()
        return await self._readers.read(
            check.check_id("run_id", run_id),
            check.check_event_id("after", after),
            check.check_limit("limit", limit),
            check.check_optional_id("user_id", user_id),
        )
