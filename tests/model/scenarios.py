"""Configurations: the runs, and the faults beside crashes, pauses and false declarations of death."""

from __future__ import annotations

from tests.model.states import Run, State, Worker
from tests.model.steps import Scenario

SCENARIOS = {
    # Cancels, replacement and queueing over two workers.
    "core": Scenario(
        strategies=("reject", "interrupt", "enqueue"),
        homes=(0, 1, 0),
        portable=(False, False, False),
        cancels=frozenset({0, 1}),
    ),
    # Run 0 saves values and is rolled back by run 1, which saves its own. With one adoption allowed, two
    # faults reach the limit of adoptions.
    "rollback": Scenario(
        strategies=("reject", "rollback"),
        homes=(0, 1),
        portable=(False, False),
        saves=frozenset({0, 1}),
        attempts=1,
    ),
    # Worker 0 drains: one of its queued runs is portable, the other is not. `core` covers pauses.
    "drain": Scenario(
        strategies=("reject", "enqueue", "enqueue"),
        homes=(0, 0, 0),
        portable=(False, True, False),
        pauses=0,
        drains=True,
    ),
    # The store becomes unavailable, and answers get lost.
    "outage": Scenario(
        strategies=("reject", "enqueue"),
        homes=(0, 1),
        portable=(False, False),
        cancels=frozenset({0}),
        outages=True,
    ),
    # A task does not stop after its cancel was delivered.
    "force": Scenario(
        strategies=("reject", "rollback"),
        homes=(0, 1),
        portable=(False, False),
        saves=frozenset({0}),
        cancels=frozenset({0}),
        attempts=2,
        deafness=True,
    ),
    # Run 0 is continued by another worker after a death or a drain of its worker, and rolled back by run 1.
    "attempts": Scenario(
        strategies=("reject", "rollback"),
        homes=(0, 1),
        portable=(True, True),
        saves=frozenset({0}),
        cancels=frozenset({1}),
        pauses=0,
        restarts=2,
        retries=1,
        attempts=2,
        drains=True,
    ),
    # Worker 0 admits and executes none; workers 1 and 2 take its runs.
    "dispatch": Scenario(
        strategies=("reject", "enqueue"),
        homes=(0, 0),
        portable=(True, True),
        cancels=frozenset({0}),
        pauses=0,
        workers=3,
        admit_only=frozenset({0}),
    ),
}


def first_state(scene: Scenario) -> State:
    workers = tuple(Worker(epoch=epoch) for epoch in range(scene.workers))
    return State(tuple(Run() for _ in scene.strategies), workers, epochs=scene.workers - 1)
