"""The simulated world itself: what a process that is killed or paused can still do, and what not."""

from __future__ import annotations

from collections.abc import Generator
from random import Random

import pytest

from tests.simulation import stand_ins
from tests.simulation.campaign import laboratory
from tests.simulation.faults import Faults
from tests.simulation.process import Process
from tests.simulation.store import Database
from tests.simulation.world import World


@pytest.fixture
def world() -> Generator[World]:
    """Nothing goes wrong in it but what a test makes go wrong."""
    with laboratory():
        world = World(1, Database())
        world.faults = Faults(crashes=1, pauses=1)
        with stand_ins.answering(world):
            yield world
        world.end()


class Lowest(Random):
    """Whatever may happen happens, as early as it can."""

    def random(self) -> float:
        return 0.0


def paused_before_its_call(world: World) -> Process:
    """Returns a process that was paused before its call of `register` was sent."""
    process = Process(world, 0)
    world.processes.append(process)
    world.chance = Lowest()
    world.fate = lambda point, op: ("pause", True)
    process.begin(process.manager.open(), "open")
    assert process.loop.stopped
    assert [call.op for call in process.unsent] == ["register"]
    return process


def workers(world: World) -> int:
    return world.database.cx.execute("SELECT count(*) FROM workers").fetchone()[0]


def test_what_a_paused_process_had_not_sent_is_done_when_it_goes_on(world: World) -> None:
    process = paused_before_its_call(world)
    while process.loop.stopped:
        assert workers(world) == 0
        assert world.schedule.step()
    while process.sent:
        assert world.schedule.step()
    assert workers(world) == 1


def test_what_a_killed_process_had_not_sent_is_never_done(world: World) -> None:
    process = paused_before_its_call(world)
    world.restart = lambda: None  # no process replaces it
    world.trouble.kill(process)
    while world.schedule.step():
        pass
    assert workers(world) == 0
