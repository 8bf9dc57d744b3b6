"""One seed: some processes on one store, the calls of their clients, the faults, and the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import count
from random import Random
from typing import Any

from coordinator.settings import Settings
from stores.errors import StoreUnavailable
from tests.simulation import faults, pairs, stand_ins, workload
from tests.simulation.agents import CODES, Habits
from tests.simulation.bus import Bus
from tests.simulation.callers import Callers
from tests.simulation.calls import Call
from tests.simulation.elsewhere import Database as Elsewhere
from tests.simulation.faults import Faults
from tests.simulation.logged import errors_logged
from tests.simulation.loop import Livelock, Schedule
from tests.simulation.pace import Pace
from tests.simulation.process import SETTINGS, Process
from tests.simulation.scenes import EVERY_ATTEMPT, FIRST_ATTEMPT, OF_ATTEMPTS, SCENES, Aim, Scene
from tests.simulation.store import ADMISSIONS, URGENT, WRITES, Database
from tests.simulation.trouble import Trouble
from tests.simulation.truth import Run, Truth

Met = tuple[str, str, str, str]
"""Await point, operation, before or after its commit, what happened there."""

WALL = 1_750_000_000.0
TROUBLE = 5.0  # s; how long things go wrong
BOUND = 45.0  # s; from then on, everything has to be over
MOST_EVENTS = 60_000


@cache
def _settings(*changed: tuple[str, Any]) -> Settings:
    """Few seeds change any, each in one of a few ways, and settings are slow to validate."""
    return Settings(**{**SETTINGS.model_dump(), **dict(changed)}) if changed else SETTINGS


class World:
    def __init__(self, seed: int, database: Database, trace: Callable[[str], None] | None = None) -> None:
        self.seed, self.trace = seed, trace
        self.chance = Random(seed)
        self.schedule = Schedule()
        self.truth = Truth(lambda: self.schedule.now)
        self.truth.wall = lambda: self.wall_ns() // 1000
        self.truth.ttl = SETTINGS.lease_ttl
        self.truth.term = SETTINGS.lease_ttl - SETTINGS.lease_margin
        self.faults: Faults = faults.draw(self.chance)
        self.features = workload.draw(self.chance)
        self.scene, self.aims = self._steer()
        if self.scene is None:
            workload.mix(self.features, Random(f"{seed}/features"))
            faults.mix(self.faults, Random(f"{seed}/faults"))
        self.settings = _settings(*self.features.settings.items())
        planned = [] if self.scene is None else self.scene.plan
        troubled = bool(self.aims) or any(
            what not in workload.WEIGHTS and what not in workload.IN_SCENES for _, what in planned
        )
        self.truth.quiet = self.faults.none and not troubled
        self.truth.most_waiting = SETTINGS.max_waiting_per_thread or 0
        self.truth.few_places = not self.features.settings.keys().isdisjoint(workload.PLACES)
        self.truth.longest_stop = SETTINGS.force_after + 0.5
        self.bus = Bus(self)
        self.elsewhere = Elsewhere()
        self.met: Counter[Met] = Counter()
        self.habits: dict[str, Habits] = {}
        self._drawn = count()
        self.epochs: dict[int, Process] = {}
        self.processes: list[Process] = []
        self.errors: list[str] = []
        self.faults_ended = False
        self._last_cancels: dict[str, float] = {}
        self.pace = Pace(lambda: self.schedule.now, self.faults, self.truth)
        self._faults_ended_at = 0.0
        self.trouble = Trouble(self)
        self._closing = self._done = False
        self.database = database
        database.empty()
        database.note, database.gone = self.truth.note, self.truth.gone
        database.clock = lambda: self.wall_ns() // 1000
        self.callers = Callers(self, self.chance)

    # -- where the seed goes

    def _steer(self) -> tuple[Scene | None, tuple[Aim, ...]]:
        """Chooses the scene: none for a third of the seeds, a random one for a third, and for a third the one
        that leads to a given pair of an await point and a fault."""
        chance, aim = self.chance, pairs.aim_of(self.seed)
        if aim is not None:
            scene, aims = pairs.way_to(aim)
        elif self.seed % EVERY_ATTEMPT == FIRST_ATTEMPT:
            scene = SCENES[chance.choice(OF_ATTEMPTS)]
            aims = (chance.choice(scene.aims),) if scene.aims and chance.random() < 0.7 else ()
        elif chance.random() < 0.5:
            return None, ()
        else:
            scene = SCENES[chance.choice([name for name, scene in SCENES.items() if not scene.aimed])]
            aims = (chance.choice(scene.aims),) if scene.aims and chance.random() < 0.7 else ()
        aims += scene.helps
        if chance.random() < (0.3 if aim is None else 0.7):  # what the scene is about, and nothing else
            given = self.faults
            self.faults = Faults(connected=given.connected, proofs=given.proofs, disordered=given.disordered)
        for name, value in scene.faults.items():
            setattr(self.faults, name, dict(value) if name == "strike" else value)
        for name, value in scene.features.items():
            setattr(self.features, name, value)
        for *_, strike in aims:
            self.faults.strike.setdefault(strike, 0.0)
            self.faults.crashes += strike == "crash"
            self.faults.pauses += strike == "pause"
        return scene, aims

    def _plan(self) -> list[tuple[float, str]]:
        if self.scene is None:
            return workload.plan(self.chance)
        planned = [(when + self.chance.uniform(0.0, 0.2), what) for when, what in self.scene.plan]
        if self.chance.random() < 0.5:
            planned += workload.plan(self.chance, most=3)
        return planned

    def new_habits(self) -> Habits:
        drawn = Habits.draw(self.chance)
        if self.scene is not None:
            return replace(drawn, **self.scene.habits)
        aside = Random(f"{self.seed}/{next(self._drawn)}")  # what is drawn otherwise stays what it was
        return replace(drawn, code=aside.choice(CODES)) if aside.random() < 0.4 else drawn

    # -- the clocks of the current process

    def boottime(self) -> float:
        return self.schedule.now

    def wall_ns(self) -> int:
        return int((WALL + self.schedule.now + self.trouble.skew) * 1e9)

    def trace_step(self, process: Process | None, what: object) -> None:
        if self.trace is not None:
            self.trace(f"{self.schedule.now:9.4f} {'' if process is None else process!r:<3} {what}")

    def meet(self, point: str, op: str, where: str, what: str) -> None:
        self.met[point, op, where, what] += 1

    # -- the run of it

    def run(self) -> list[str]:
        """Runs the seed from the first call to the last check, and returns the violations."""
        with stand_ins.answering(self), errors_logged(self.errors, quiet=self.truth.quiet):
            self.trace_step(None, f"seed {self.seed}: {self.faults}")
            processes = self.chance.choice((1, 2, 2, 3)) if self.scene is None else self.scene.processes
            for _ in range(processes):
                self._start_process()
            for when, what in self._plan():
                self.schedule.after(when, self._happen, what)
            self.trouble.plan()
            self.schedule.after(TROUBLE, self._end_faults)
            try:
                self._go()
            except Livelock as error:
                self.truth.wrong(f"a process never waits: {error}")
            return self.truth.violations + self.errors

    def end(self) -> None:
        """Kills all loops, so that tasks that are destroyed schedule nothing more, and closes what waits in
        them: collected later, it would raise its errors in the code of another test."""
        for process in self.processes:
            process.loop.kill()
        for process in self.processes:
            for task in asyncio.all_tasks(process.loop):
                with suppress(BaseException):
                    task.get_coro().close()
        self.database.let_go()

    def _go(self) -> None:
        for _ in range(MOST_EVENTS):
            if self._done or not self.schedule.step():
                break
        if not self._done:
            self.truth.wrong("the world stood still, or never came to an end")
            return
        for process in self.processes:
            if not process.loop.dead:
                self.truth.violations.extend(process.leftovers())
        self.truth.final(self.database.cx)
        self.elsewhere.check(self.truth, self.database.cx)

    def _start_process(self) -> Process:
        process = Process(self, len(self.processes))
        self.processes.append(process)
        process.begin(self.callers.opening(process), "open")
        return process

    def restart(self) -> None:
        """Starts a process that replaces one that has ended."""
        if not self._closing:
            self._start_process()

    def up(self) -> list[Process]:
        return [process for process in self.processes if process.up]

    def _happen(self, what: str) -> None:
        if what in workload.WEIGHTS or what in workload.IN_SCENES:
            self._call(what)
        else:
            self.trouble.strike(what)

    def _call(self, name: str) -> None:
        up = self.up()
        if self.chance.random() < 0.1:
            up = [process for process in self.processes if not process.loop.dead]
        if up:
            process = self.chance.choice(up)
            process.begin(self.callers.call(name, process), name)

    # -- the store's side of a call

    def request(
        self,
        process: Process,
        op: str,
        point: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: asyncio.Future[Any],
    ) -> None:
        """Called at an await point: sends the call, or strikes before."""
        if process.loop.dead:
            return
        if process.store_closed:
            future.set_exception(StoreUnavailable("the store is closed"))
            return
        if op == "decide":
            self.truth.to_be_ended(args[0], kwargs.get("cause"), process.paused_since)
        strike, before = self.fate(point, op)
        call = Call(self, process, op, point, args, kwargs, future, strike, before)
        self.meet(point, op, "before", "nothing")
        when = self.schedule.now + self.chance.uniform(0.0002, 0.004)
        if before and strike is not None:
            when = call.strike(when)
            if process.loop.dead:
                return
        if process.loop.stopped and self.chance.random() < 0.5:
            process.unsent.append(call)
        else:
            self.send(call, when)

    def send(self, call: Call, when: float) -> None:
        """Sends the call: the store executes it even if its caller ends."""
        process = call.process
        if call.op in ADMISSIONS:
            process.admitting.add(call.args[0].run_id)
        if call.op in WRITES and call.op not in URGENT and not self.faults.disordered:
            when = process.last_write = max(when, process.last_write)
        process.sent += 1
        self.schedule.at(when, call.commit)

    def fate(self, point: str, op: str) -> tuple[str | None, bool]:
        if self.faults_ended:
            return None, True
        chance, before = self.chance, self.chance.random() < 0.5
        for *aimed_at, where, strike in self.aims:
            if aimed_at == [point, op] and chance.random() < 0.5:
                return strike, where == "before"
        for name, share in self.faults.strike.items():
            if chance.random() < share:
                return name, before
        return None, before

    def breaks(self) -> bool:
        """Returns True if the restore of a rollback is to fail."""
        return self.chance.random() < self.faults.broken

    def died_at(self, epoch: int) -> float | None:
        process = self.epochs.get(epoch)
        return None if process is None else process.died

    def proven_dead(self, epoch: int) -> bool:
        process = self.epochs.get(epoch)
        return self.faults.proofs and process is not None and process.loop.dead

    # -- the end

    def _end_faults(self) -> None:
        """Ends all faults. From now on hanging runs are cancelled, and all runs have to settle."""
        self.trace_step(None, "all faults are over")
        self.faults_ended, self._faults_ended_at = True, self.schedule.now
        self.trouble.end()
        executing = (process for process in self.up() if not process.only_admits)
        if all(process.loop.stopped or process.manager.worker.draining for process in executing):
            self._start_process()
        self._look()

    def _look(self) -> None:
        unsettled = [run for run in self.truth.runs.values() if run.in_flight]
        busy = [
            process
            for process in self.processes
            if not process.loop.dead and (process.clients or process.agents)
        ]
        late = any(process.loop.dead and process.sent for process in self.processes)
        if not unsettled and not busy and not late and not self.database.unsettled():
            self._close()
            return
        if self.schedule.now - self._faults_ended_at > BOUND:
            names = [f"{run.run_id} ({run.status}, holds={run.holds})" for run in unsettled]
            clients = [task.get_name() for process in busy for task in process.clients]
            agents = sum(process.agents for process in busy)
            self.truth.wrong(f"not over after {BOUND} s: {names}, calls {clients}, {agents} agents")
            self._close()
            return
        for run in unsettled:
            self._end_what_hangs(run)
        self.truth.check_overdue(self._faults_ended_at)
        self.schedule.after(0.25, self._look)

    def _end_what_hangs(self, run: Run) -> None:
        run_id, habits = run.run_id, self.habits.get(run.run_id)
        if habits is None or habits.ends != "hangs" or run.waiting or run.status.value != "running":
            return
        if run.timeout is not None or (run.idle is not None and habits.silent):
            return  # it ends by itself
        up = [process for process in self.up() if not process.loop.stopped]
        if up and self.schedule.now - self._last_cancels.get(run_id, 0.0) > 5.0:
            self._last_cancels[run_id] = self.schedule.now
            process = self.chance.choice(up)
            wait = self.chance.choice((None, 20.0))
            process.begin(self.callers.last_cancel(process, run_id, wait), "last cancel")

    def _close(self) -> None:
        """Every process leaves; then the rest is checked."""
        self._closing = True
        for process in self.up():
            process.begin(process.leave(), "leave")
        self._await_left()

    def _await_left(self) -> None:
        left = all(
            process.left and not process.clients and not process.agents
            for process in self.processes
            if not process.loop.dead
        )
        if left or self.schedule.now - self._faults_ended_at > BOUND + 60.0:
            self.schedule.after(0.1, self._finish)
        else:
            self.schedule.after(0.1, self._await_left)

    def _finish(self) -> None:
        self._done = True
