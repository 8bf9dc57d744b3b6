"""Configurations: who wants the thread, and what may go wrong beside crashes, pauses, false burials."""

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
    # Run 0 leaves values, run 1 changes them and is rolled back by run 2. With one adoption allowed, two
    # faults reach the end of it.
    "rollback": Scenario(
        strategies=("reject", "rollback"),
        homes=(0, 1),
        portable=(False, False),
        saves=frozenset({0, 1}),
        attempts=1,
    ),
    # Worker 0 drains: one of its waiting runs may go elsewhere, the other may not. Pauses are left to `core`.
    "drain": Scenario(
        strategies=("reject", "enqueue", "enqueue"),
        homes=(0, 0, 0),
        portable=(False, True, False),
        pauses=0,
        drains=True,
    ),
    # The store goes away, and answers get lost.
    "outage": Scenario(
        strategies=("reject", "enqueue"),
        homes=(0, 1),
        portable=(False, False),
        cancels=frozenset({0}),
        outages=True,
    ),
    # A task that was told to stop does not.
    "force": Scenario(
        strategies=("reject", "rollback"),
        homes=(0, 1),
        portable=(False, False),
        saves=frozenset({0}),
        cancels=frozenset({0}),
        attempts=2,
        deafness=True,
    ),
}


def first_state(scene: Scenario) -> State:
    return State(tuple(Run() for _ in scene.strategies), (Worker(epoch=0), Worker(epoch=1)))
