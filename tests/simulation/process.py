"""One simulated gateway process: a real RunManager on ports of the world."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from zlib import crc32

from coordinator import assistant
from coordinator.clock import Clocks
from coordinator.context import RunContext
from coordinator.event_logs.local import LocalEventLog
from coordinator.manager import RunManager
from coordinator.settings import Settings
from coordinator.telemetry.events import Event, RunForced, WorkerRegistered
from coordinator.workers.pacemaker import LoopPacemaker
from stores.base import CoordinationStore
from tests.simulation.agents import Agent, Walker
from tests.simulation.bus import SimNotifier, SimSlots
from tests.simulation.elsewhere import Assistant as Elsewhere
from tests.simulation.loop import ProcessLoop
from tests.simulation.store import SimStore
from tests.support.inside import assembly_of, bookkeeping_of

if TYPE_CHECKING:
    from tests.simulation.calls import Call
    from tests.simulation.world import World

SETTINGS = Settings(
    tick=1.0,
    short_tick=0.5,
    renew=1.5,
    lease_ttl=5.0,
    lease_margin=1.0,
    sweep=1.5,
    force_after=2.0,
    grace=1.0,
    max_waiting_per_thread=2,
    admission_patience=0,  # the simulated callers try again by themselves
)


PORTABLE = "portable"
"""The assistant that every process knows, where a seed has it."""


class Process:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.began = world.schedule.now
        self.died: float | None = None
        self.loop = ProcessLoop(world.schedule)
        self.linked = True
        self.store_closed = self.leaving = self.left = False
        self.last_write = self.last_answer = self.cut_until = 0.0
        self.sent = 0
        """Calls that the store has and has not done yet."""
        self.pauses = list[tuple[float, float]]()
        """When each began and ended."""
        self.admitting: set[str] = set()
        """Runs whose admission was sent and is not committed."""
        self.unsent: list[Call] = []
        """Calls that a pause came before: they go out when it is over, and never where it is killed first."""
        self.epochs: set[int] = set()
        self.clients: set[asyncio.Task[Any]] = set()
        self.users_code = set[str]()
        """Runs that have come to code of the kit."""
        self.agents = 0
        """Tasks of runs, and what they track, that are at work."""
        self.notifier = SimNotifier(self, world.bus)
        self.store = SimStore(self)
        # Else the manager takes it for a plain store of records, and nothing of it is simulated.
        assert isinstance(self.store, CoordinationStore), "SimStore lacks a method of the port"
        self.manager = RunManager(
            self.store,
            settings=self._settings(),
            notifier=self.notifier,
            slots=SimSlots(self, world.bus, self.notifier),
            event_log=LocalEventLog(),
            pacemaker=LoopPacemaker(self.store, world.settings),
            hooks=(self._hook,),
            clocks=Clocks(world.boottime, lambda: world.wall_ns() // 1000, world.boottime),
            assistants=self._assistants(),
        )

    def _settings(self) -> Settings:
        settings = self.world.settings
        return settings.model_copy(update={"admit_only": True}) if self.only_admits else settings

    @property
    def only_admits(self) -> bool:
        return self.world.features.dispatch and self.number == 0

    def _assistants(self) -> dict[str, Any] | None:
        features = self.world.features
        if features.elsewhere:
            return {PORTABLE: Elsewhere(self)}
        if features.retries is not None:
            return {PORTABLE: self._walking(features.retries)}
        return {PORTABLE: self._portable} if features.portable else None

    def _walking(self, retries: int) -> Any:
        @assistant(name=PORTABLE, retries=retries)
        async def walk(ctx: RunContext) -> Any:
            return await Walker(self, heeds_drain=crc32(ctx.run.run_id.encode()) % 4 > 0)(ctx)

        return walk

    def paused_since(self, when: float, but: float) -> float:
        """How long (s) it was paused since `when`, without the first `but` seconds of each pause."""
        return sum(max(0.0, end - max(begin, when) - but) for begin, end in self.pauses)

    @property
    def up(self) -> bool:
        return not (self.loop.dead or self.leaving)

    @property
    def departing(self) -> bool:
        """It ends its runs before a decision about them is written."""
        return self.leaving or self.manager.worker.draining

    def __repr__(self) -> str:
        return f"P{self.number}"

    def begin(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Starts a call of a client of this process."""

        def start() -> None:
            task = self.loop.create_task(work, name=name)
            self.clients.add(task)
            task.add_done_callback(self._over)

        if self.loop.dead:
            work.close()
        else:
            self.loop.post(start)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.clients.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.truth.wrong(f"{self} {task.get_name()} raised {error!r}")

    def _hook(self, event: Event) -> None:
        self.world.trace_step(self, event)
        if isinstance(event, WorkerRegistered):
            self.epochs.add(event.epoch)
            self.world.epochs[event.epoch] = self
        elif isinstance(event, RunForced) and (run := self.world.truth.runs.get(event.run_id)) is not None:
            run.forced = True
            if event.run_id in self.users_code and self.world.truth.quiet and self._works(event.run_id):
                self.world.truth.wrong(
                    f"run {event.run_id} was forced, although its code lets a cancel through"
                )

    def _works(self, run_id: str) -> bool:
        """Returns True if its own code still runs, and not only its tracked work."""
        entry = assembly_of(self.manager).shared.registry.under_way(run_id)
        return entry is not None and entry.record.task_active

    async def _portable(self, ctx: RunContext) -> Any:
        run_id, habits = ctx.run.run_id, self.world.habits
        if run_id not in habits:  # its admission was never answered
            habits[run_id] = self.world.new_habits()
        return await Agent(self, habits[run_id])(ctx)

    async def leave(self, linger: float = 0.0) -> None:
        """Shut down in good order; with `linger`, stay for so many seconds after a drain."""
        self.leaving = True
        if linger or self.world.chance.random() < 0.3:
            await self.manager.worker.drain(self.world.chance.choice((0.0, 0.3, 2.0)))
            await asyncio.sleep(linger)
        began = self.world.schedule.now
        await self.manager.aclose()
        took = self.world.schedule.now - began
        if took > 25.0 and self.world.faults_ended:
            self.world.truth.wrong(f"{self} took {took:.1f} s to shut down")
        if unsettled := assembly_of(self.manager).shared.registry.unsettled():
            self.world.truth.wrong(f"{self} has left, and {len(unsettled)} of its runs are not settled")
        self.left = True

    def leftovers(self) -> list[str]:
        """Returns what is left although it has left and all its runs are over: each is a violation."""
        kept = {
            "unsettled runs": assembly_of(self.manager).shared.registry.unsettled(),
            **bookkeeping_of(self.manager),
            "callers": self.clients,
            "tasks": [task for task in self.loop.tasks if not task.done()],
        }
        left = [f"{self} left {what}: {things!r:.200}" for what, things in kept.items() if things]
        return left + [f"{self}: {complaint}" for complaint in self.loop.complaints]
