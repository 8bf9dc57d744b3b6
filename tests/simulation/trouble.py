"""Faults at random or given times: of processes, the store, the transport, the clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.loop import Handle

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


class Trouble:
    def __init__(self, world: World) -> None:
        self._world = world
        self._outage_until = 0.0
        self._locked_until: dict[str, float] = {}
        """By thread."""
        self.skew = 0.0
        """Time (s) by which the clock of the host has jumped."""

    def plan(self) -> None:
        """As the seed has it."""
        world, faults, chance = self._world, self._world.faults, self._world.chance
        if faults.crashes and chance.random() < 0.5:
            self._soon("crash")
        if faults.pauses and chance.random() < 0.5:
            self._soon("pause")
        for _ in range(faults.outages):
            self._soon("outage")
        for _ in range(faults.cuts):
            self._soon("cut off")
        for _ in range(faults.burials):
            self._soon("declare dead")
        for _ in range(faults.locks):
            world.schedule.after(chance.uniform(0.1, 3.0), self.lock)
        for _ in range(faults.jumps):
            world.schedule.after(chance.uniform(0.1, 9.0), self.jump)
        for _ in range(faults.breaks):
            self._soon("break")
            world.schedule.after(chance.uniform(0.1, 3.0), world.bus.flush)

    def _soon(self, what: str) -> None:
        self._world.schedule.after(self._world.chance.uniform(0.1, 3.0), self.strike, what)

    def strike(self, what: str) -> None:
        """Causes a fault at a random live process; "… of owner": at one that holds a thread, if any does."""
        world = self._world
        if what == "outage":
            self.outage()
            return
        if what == "restart":
            world.restart()
            return
        what, _, victim = what.partition(" of ")
        up = world.up()
        owners = [process for process in up if victim and world.truth.holders() & process.epochs]
        if up:
            self._at(what, world.chance.choice(owners or up))

    def _at(self, what: str, process: Process) -> None:
        if what == "crash":
            self._world.faults.crashes += 1  # planned for this moment, whatever has struck before
            self.kill(process)
        elif what == "pause":
            self._world.faults.pauses += 1
            self.pause(process)
        elif what == "cut off":
            self.cut_off(process)
        elif what == "declare dead":
            self.declare_dead(process)
        else:
            self._break(process)

    # -- processes

    def kill(self, process: Process) -> bool:
        """Returns False if it is dead already, or the seed has no further crashes."""
        world = self._world
        if process.loop.dead or world.faults.crashes <= 0:
            return False
        world.faults.crashes -= 1
        world.trace_step(process, "is killed")
        process.loop.kill()
        process.unsent.clear()
        process.died = world.schedule.now
        world.truth.killed |= process.epochs
        if world.chance.random() < 0.6:
            world.schedule.after(world.chance.uniform(0.05, 2.0), world.restart)
        return True

    def pause(self, process: Process) -> bool:
        world = self._world
        if process.loop.dead or process.loop.stopped or world.faults.pauses <= 0:
            return False
        world.faults.pauses -= 1
        seconds = world.chance.choice((0.5, 2.0, 7.0, 12.0))
        world.trace_step(process, f"is paused for {seconds} s")
        process.loop.stopped = True
        process.pauses.append((world.schedule.now, world.schedule.now + seconds))
        world.schedule.after(seconds, self._go_on, process)
        return True

    def _go_on(self, process: Process) -> None:
        world = self._world
        world.trace_step(process, "continues")
        unsent, process.unsent = process.unsent, []
        for call in unsent:
            world.send(call, world.schedule.now + world.chance.uniform(0.0002, 0.004))
        process.loop.go_on(self._shuffle)

    def _shuffle(self, kept: list[Handle]) -> None:
        self._world.chance.shuffle(kept)

    def declare_dead(self, process: Process) -> None:
        """Declares the epochs of a live process dead."""
        world = self._world
        for peer in world.database.workers():
            if peer.epoch in process.epochs and not process.loop.dead:
                world.trace_step(process, f"is declared dead while it lives, epoch {peer.epoch}")
                world.truth.falsely.add(peer.epoch)
                world.truth.commit("fence_worker", (peer,), {}, partial(world.database.fence, peer))

    # -- the store, the clock

    def outage(self) -> None:
        world = self._world
        self._outage_until = world.schedule.now + world.chance.choice((0.3, 1.0, 6.0))
        world.trace_step(None, f"the store is away until {self._outage_until:.3f}")

    def cut_off(self, process: Process) -> None:
        """Cuts off one process in both directions: its calls may be executed, and it receives no answer."""
        world = self._world
        process.cut_until = world.schedule.now + world.chance.choice((0.5, 2.0, 5.5, 9.0))
        world.trace_step(process, f"does not reach the store until {process.cut_until:.3f}")

    def keeps_away(self, process: Process) -> bool:
        """The process does not reach the store at the moment."""
        return self._world.schedule.now < max(self._outage_until, process.cut_until)

    def lock(self) -> None:
        """A foreign session holds a thread and its runs. A sweep leaves them out in a real store; here it
        does not meet them."""
        world = self._world
        threads = sorted({run.thread_id for run in world.truth.runs.values() if run.in_flight})
        if threads:
            thread_id, seconds = world.chance.choice(threads), world.chance.choice((0.3, 1.5, 4.0))
            self._locked_until[thread_id] = world.schedule.now + seconds
            world.trace_step(None, f"thread {thread_id!r} is locked for {seconds} s")

    def locked_until(self, thread_id: str) -> float:
        return self._locked_until.get(thread_id, 0.0)

    def jump(self) -> None:
        """All processes are on one host, as SQLite requires, and share its clock."""
        self._world.truth.clock_jumped = True
        self.skew += self._world.chance.choice((-15.0, 0.5, 40.0))
        self._world.trace_step(None, f"the clock jumps to {self.skew:+} s")

    # -- the transport

    def _break(self, process: Process) -> None:
        world = self._world
        self._link(process, up=False)
        world.schedule.after(world.chance.uniform(0.2, 3.0), partial(self._link, process, up=True))

    def _link(self, process: Process, *, up: bool) -> None:
        if process.linked is not up and not process.loop.dead:
            process.linked = up
            self._world.trace_step(process, "receives hints again" if up else "receives no hints")
            process.loop.post(process.notifier.link_changed)

    # -- the end of the faults

    def end(self) -> None:
        """Ends all faults. A paused process resumes at its time, perhaps long after it was declared dead. If
        only processes that admit are left, one that executes is started, because their runs wait for it."""
        faults = self._world.faults
        faults.crashes = faults.pauses = 0
        faults.lose = faults.repeat = faults.late = faults.broken = 0.0
        self._outage_until = 0.0
        self._locked_until.clear()
        for process in self._world.processes:
            process.cut_until = 0.0
            self._link(process, up=True)
        left = [process for process in self._world.processes if not process.loop.dead]
        if left and all(process.only_admits for process in left):
            self._world.restart()
