"""The callers of a process: each makes one call, and checks its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

from coordinator.errors import (
    CancelNotDurable,
    ConflictError,
    CoordinatorError,
    IdempotencyConflict,
    NotSettled,
    OutboxFull,
    RunFailed,
    ThreadNotFound,
)
from coordinator.event_log import End
from coordinator.schemas import RunStatus
from tests.simulation.agents import Agent, Habits
from tests.simulation.clients import Clients

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.truth import Run
    from tests.simulation.world import World

OWNER, STRANGER = "u1", "u2"
DELAYS = (None, None, 0.2, 1.0, 3.0)
"""s"""


class Callers:
    def __init__(self, world: World, chance: Random) -> None:
        self._world, self._chance = world, chance
        number = world.features.threads or chance.choice((1, 1, 2))
        self._threads = [f"t{number}" for number in range(number)]
        clients = Clients(chance, self._threads, self._any_run, lambda: self._user)
        self._calls: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {
            "create": self._create,
            "cancel": self._cancel,
            "disconnect": self._disconnect,
            "wait": self._wait,
            "follow": self._follow,
            "read": self._read,
            "look": self._look,
            "reconcile": self._reconcile,
            "update": self._update,
            "copy": self._copy,
            "keep latest": self._keep_latest,
            "delete": self._delete,
            "completion": self._completion,
            "counters": self._counters,
            "cleanup": self._cleanup,
            "status": self._status,
            "make": clients.make,
            "change": clients.change,
            "list": clients.listing,
            "remove": clients.remove,
            "leave": self._leave,
            "request drain": self._request_drain,
            "forget": self._forget,
        }

    @property
    def _user(self) -> str | None:
        return OWNER if self._world.features.users else None

    def call(self, name: str, process: Process) -> Coroutine[Any, Any, None]:
        if name in ("reject", "enqueue", "interrupt", "rollback"):
            work = self._admit(process, name)
        elif name == "keyed":
            work = self._admit(process, self._chance.choice(("reject", "enqueue", "interrupt")), key="k1")
        else:
            work = self._calls[name](process)
        return self._expected(work)

    async def _expected(self, work: Coroutine[Any, Any, None]) -> None:
        """The project's own errors are answers."""
        try:
            await work
        except (CoordinatorError, TimeoutError) as error:
            self._world.trace_step(None, f"answer {error!r}")

    def opening(self, process: Process) -> Coroutine[Any, Any, None]:
        """Opens the manager, and tries again if it cannot start, as a supervisor does."""

        async def until_open() -> None:
            while process.up and not process.manager.worker.draining:
                try:
                    await process.manager.open()
                except CoordinatorError:
                    await asyncio.sleep(0.5)
                else:
                    return

        return until_open()

    def last_cancel(self, process: Process, run_id: str, wait: float | None) -> Coroutine[Any, Any, None]:
        return self._expected(self.cancel(process, run_id, "interrupt", wait))

    # -- runs

    async def _admit(self, process: Process, strategy: str, key: str | None = None) -> None:
        thread_id, called_at = self._chance.choice(self._threads), self._world.schedule.now
        features, truth = self._world.features, self._world.truth
        habits, old_style = self._world.new_habits(), features.old_style and self._chance.random() < 0.7
        portable = features.portable and not old_style and self._chance.random() < 0.6
        portable = portable or features.elsewhere
        assistant = "portable" if portable else "agent"
        closed, full = (
            process.departing,
            process.manager.worker.pending_writes >= self._world.settings.outbox_limit,
        )
        known = key in truth.keys
        more = {} if key is not None else self._limits()
        parent = self._any_run() if features.families and key is None else None
        if features.delays and key is None:
            more["after_seconds"] = self._chance.choice(DELAYS)
        self._world.trace_step(process, f"{strategy} on {thread_id}, {more}, child of {parent}, {habits}")
        try:
            spec = process.manager.spec(
                thread_id,
                assistant,
                multitask_strategy=strategy,
                on_disconnect=self._chance.choice(("cancel", "continue")) if key is None else "cancel",
                idempotency_key=key,
                kwargs={"strategy": key},
                user_id=self._user,
                parent_run_id=parent,
                **more,
            )
            # As a gateway does: half of the runs that are launched at once start with their admission.
            starts = portable and len(truth.runs) % 2 == 0
            record = await process.manager.admit(spec, start=starts)
        except ConflictError as conflict:
            if (
                key is not None
                and known
                and not truth.runs[truth.keys[key]].deleted
                and not isinstance(conflict, IdempotencyConflict)
            ):
                truth.wrong(f"key {key} was known, and its run was not answered: {conflict}")
            elif key is None and strategy == "reject":
                truth.refused(thread_id, conflict.active_run_id, called_at)
                self._refused_over_the_dead(process, conflict.active_run_id)
            elif key is None:
                truth.wrong(f"{strategy} was refused: {conflict}")
            raise
        except OutboxFull:
            if process.manager.worker.pending_writes < self._world.settings.outbox_limit:
                truth.wrong(f"{process} refused a run for its full outbox, which has room")
            raise
        if closed:
            truth.wrong(f"{process} admitted run {record.run_id} while it left")
        if full:
            truth.wrong(f"{process} admitted run {record.run_id} over a full outbox")
        truth.admitted(record.run_id, key)
        if record.already_admitted:
            return
        truth.runs[record.run_id].launched = True
        if portable:
            self._world.habits.setdefault(record.run_id, habits)  # it may be executed elsewhere by now
            if process.only_admits != record.store_only:
                truth.wrong(f"{process} admitted run {record.run_id} to be executed elsewhere: {record}")
            if not record.store_only:
                process.manager.launch(record)
        else:
            self._start(process, record, habits, old_style=old_style)
        await self._wait_for(process, record.run_id, 60.0)

    def _limits(self) -> dict[str, Any]:
        if not self._world.features.limits:
            return {}
        limits = {"timeout": (0.3, 1.0, 3.0), "idle_timeout": (0.3, 1.2), "queue_timeout": (0.2, 1.0, 3.0)}
        return {
            name: self._chance.choice(seconds)
            for name, seconds in limits.items()
            if self._chance.random() < 0.4
        }

    def _refused_over_the_dead(self, process: Process, holder: str | None) -> None:
        """A process sweeps before it admits: runs of provably dead workers block no admission."""
        run = self._world.truth.runs.get(holder or "")
        if (
            run is None
            or run.epoch is None
            or not run.in_flight
            or run.waiting
            or run.due is not None
            or run.status not in ("pending", "running")
        ):
            return
        died = self._world.died_at(run.epoch)
        if self._world.faults.proofs and died is not None and max(died, run.taken_at) < process.began:
            self._world.truth.wrong(
                f"{process} refused a run over {holder}, whose process had died before it began"
            )

    def _start(self, process: Process, record: Any, habits: Habits, *, old_style: bool) -> None:
        self._world.habits.setdefault(record.run_id, habits)
        agent = Agent(process, habits)
        if old_style:
            record.task = process.loop.create_task(agent.old_style(record), name="old style run")
        else:

            async def run(ctx: Any) -> Any:
                return await agent(ctx)

            process.manager.launch(record, run)

    async def _create(self, process: Process) -> None:
        limits = self._limits()
        limits.pop("queue_timeout", None)
        record = await process.manager.create(
            self._chance.choice(self._threads), "agent", user_id=self._user, **limits
        )
        self._world.truth.admitted(record.run_id, None)
        self._world.truth.runs[record.run_id].launched = True
        self._start(process, record, self._world.new_habits(), old_style=False)

    async def _forget(self, process: Process) -> None:
        """Admit a run, and never launch it: it frees its thread all the same."""
        thread_id = self._chance.choice(self._threads)
        record = await process.manager.create_or_reject(
            thread_id, "agent", multitask_strategy="enqueue", user_id=self._user
        )
        self._world.truth.admitted(record.run_id, None)
        await self._wait_for(process, record.run_id, 60.0)

    async def _wait_for(self, process: Process, run_id: str, timeout: float) -> None:
        began = self._world.schedule.now
        try:
            result = await process.manager.wait(run_id, timeout=timeout)
        except RunFailed as failed:
            self._world.truth.waited(run_id, RunStatus(failed.status), None)
        except TimeoutError:
            if self._world.schedule.now - began < timeout:
                self._world.truth.wrong(f"wait for {run_id} gave up before its time")
        else:
            self._world.truth.waited(run_id, None, result)

    async def _cancel(self, process: Process) -> None:
        run_id = self._any_run()
        if run_id is None:
            return
        action = self._chance.choice(("interrupt", "interrupt", "rollback"))
        wait = self._chance.choice((None, None, 8.0))
        if (
            wait is not None and run_id[-1] in "048c"
        ):  # not drawn: so seeds still find the bugs they are known for
            wait = 0.2
        await self.cancel(process, run_id, action, wait)

    async def cancel(self, process: Process, run_id: str, action: str, wait: float | None) -> None:
        truth = self._world.truth
        self._world.trace_step(process, f"cancel {run_id} ({action}, wait={wait})")
        curious = self._user is not None and self._chance.random() < 0.3
        if curious and await process.manager.cancel(run_id, user_id=STRANGER):
            truth.wrong(f"a stranger cancelled run {run_id}")
        began = self._world.schedule.now
        try:
            answer = await process.manager.cancel(run_id, action=action, user_id=self._user, wait=wait)
        except CancelNotDurable:
            truth.not_durable(run_id, process)
            raise
        except NotSettled:
            if wait is not None and self._world.schedule.now - began < wait:
                truth.wrong(f"a cancel of {run_id} gave up before its time")
            truth.cancelled(run_id, answer=True, waited=False)
            raise
        truth.cancelled(run_id, answer=answer, waited=wait is not None)

    async def _disconnect(self, process: Process) -> None:
        if (run_id := self._any_run()) is None:
            return
        stays = self._world.truth.runs[run_id].on_disconnect != "cancel"
        try:
            answer = await process.manager.disconnected(run_id, user_id=self._user)
        except CancelNotDurable:
            self._world.truth.not_durable(run_id, process)
            raise
        if answer and stays:
            self._world.truth.wrong(f"run {run_id} was cancelled for its watcher, which it does not need")
        elif not stays:
            self._world.truth.cancelled(run_id, answer=answer, waited=False)

    async def _wait(self, process: Process) -> None:
        if (run_id := self._any_run()) is not None:
            await self._wait_for(process, run_id, self._chance.choice((0.5, 30.0)))

    async def _follow(self, process: Process) -> None:
        """The end is delivered once and last, whichever events are lost."""
        if (run_id := self._any_run()) is None:
            return
        ends: list[End] = []
        async with process.manager.follow(run_id, user_id=self._user) as follower:
            async for item in follower:
                if ends:
                    self._world.truth.wrong(f"a follower of {run_id} received {item!r} after its end")
                if isinstance(item, End):
                    ends.append(item)
        if not ends:
            self._world.truth.wrong(f"a follower of {run_id} was left without its end")
        else:
            self._world.truth.followed(run_id, ends[0].status)

    # -- what the code around a run reports

    async def _completion(self, process: Process) -> None:
        """Also after the run, or its whole thread, was deleted. Not of a run that was never launched: a
        report is a sign of life, after which its caller has to end the run."""
        if (run_id := self._launched()) is not None:
            await process.manager.update_run_completion(run_id, total_tokens=7, model_name="m")

    async def _counters(self, process: Process) -> None:
        """As `_completion`."""
        if (run_id := self._launched()) is not None:
            await process.manager.update_run_progress(run_id, total_tokens=3)
            await process.manager.update_model_name(run_id, "m2")

    async def _cleanup(self, process: Process) -> None:
        """Also of a running run, which can still be ended afterwards."""
        if (run := self._one_that(lambda run: True)) is not None:
            run.abandoned = True
            await process.manager.cleanup(run.run_id, delay=0)

    async def _status(self, process: Process) -> None:
        """A caller ends its run before its turn."""
        if (run := self._one_that(self._ends_soon)) is not None:
            run.abandoned = True
            await process.manager.set_status(run.run_id, self._chance.choice(("error", "interrupted")))

    def _ends_soon(self, run: Run) -> bool:
        """It is queued, and would end soon if it started now."""
        habits = self._world.habits.get(run.run_id)
        return (
            run.status is RunStatus.pending and run.queued and habits is not None and habits.ends != "hangs"
        )

    def _one_that(self, wanted: Callable[[Run], bool]) -> Run | None:
        runs = [run for run in self._world.truth.runs.values() if wanted(run) and not run.deleted]
        return self._chance.choice(runs) if runs else None

    def _any_run(self) -> str | None:
        run = self._one_that(lambda run: True)
        return None if run is None else run.run_id

    def _launched(self) -> str | None:
        known = [run_id for run_id, run in self._world.truth.runs.items() if run.launched]
        return self._chance.choice(known) if known else None

    # -- threads, looking, upkeep

    async def _read(self, process: Process) -> None:
        thread_id, truth = self._chance.choice(self._threads), self._world.truth
        before = truth.in_flight(thread_id)
        answer = await process.manager.has_inflight(thread_id)
        still = [run.run_id for run in before if run.in_flight]
        if not answer and still:
            truth.wrong(f"has_inflight({thread_id}) returned False while {still} were in flight")
        if (run_id := self._any_run()) is not None:
            await process.manager.runs.explain(run_id)
            await process.manager.runs.receipt(run_id)
        await process.manager.list_by_thread(thread_id)

    async def _look(self, process: Process) -> None:
        """Reads as operators do, and as a stranger that tries."""
        manager, truth = process.manager, self._world.truth
        await manager.worker.health()
        await manager.worker.fleet()
        await manager.runs.recent(in_flight=self._chance.random() < 0.5)
        with suppress(ThreadNotFound):
            await manager.threads.get(self._chance.choice(self._threads))
        run_id = None if self._user is None else self._any_run()
        if run_id is not None and await manager.get(run_id, user_id=STRANGER) is not None:
            truth.wrong(f"a stranger saw run {run_id}")

    async def _reconcile(self, process: Process) -> None:
        await process.manager.reconcile_orphaned_inflight_runs(error="reconciled")

    async def _update(self, process: Process) -> None:
        values = {"updated": self._world.schedule.number()}
        await process.manager.threads.replace_values(
            self._chance.choice(self._threads), values, user_id=self._user
        )

    async def _copy(self, process: Process) -> None:
        target = self._chance.choice((*self._threads, "copy"))
        await process.manager.threads.copy(self._threads[0], target, user_id=self._user)

    async def _keep_latest(self, process: Process) -> None:
        await process.manager.threads.keep_latest(self._chance.choice(self._threads), user_id=self._user)

    async def _delete(self, process: Process) -> None:
        await process.manager.threads.delete(self._chance.choice(self._threads), user_id=self._user)

    async def _leave(self, process: Process) -> None:
        if process.up:
            await process.leave(linger=self._chance.choice((0.0, 0.0, 0.5, 3.0)))
            await asyncio.sleep(0.2)
            self._world.restart()

    async def _request_drain(self, process: Process) -> None:
        """An operator requests the drain of one process from another."""
        peers = [peer for peer in self._world.up() if peer is not process and peer.manager.worker.epoch]
        if not peers:
            return
        peer = self._chance.choice(peers)
        epoch = peer.manager.worker.epoch
        grace = self._chance.choice((None, 0.0, 0.5))
        requested = await process.manager.worker.request_drain(epoch, grace=grace)
        self._world.schedule.after(0.0, self._world.restart)
        await asyncio.sleep(2.5)
        stays = peer.up and peer.manager.worker.epoch == epoch and not peer.manager.worker.draining
        if requested and stays and self._world.truth.quiet:
            self._world.truth.wrong(f"{peer} does not drain, although its drain was requested")
