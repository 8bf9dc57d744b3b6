"""Visits every reachable state, breadth first, so the trace to a violation is a shortest one."""

from __future__ import annotations

import gc
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from tests.model import invariants
from tests.model.states import NONE, Run, State, changed
from tests.model.steps import Scenario, steps

REPORT_EVERY = 50_000


@dataclass(frozen=True)
class Result:
    states: int
    violation: str | None = None
    trace: tuple[str, ...] = ()


def explore(
    start: State,
    scene: Scenario,
    *,
    faults: int,
    weak: frozenset[str] = frozenset(),
    progress: Callable[[int], object] = lambda states: None,
) -> Result:
    """Visit the states that are reachable with at most `faults` faults. Stops at the first violation."""
    with _collecting_no_garbage():
        return _explore(start, scene, faults, weak, progress)


@contextmanager
def _collecting_no_garbage() -> Generator[None]:
    """Without garbage collection: states form no cycles, and there are too many to traverse for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _explore(
    start: State, scene: Scenario, faults: int, weak: frozenset[str], progress: Callable[[int], object]
) -> Result:
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    before: dict[State, list[State]] = defaultdict(list)  # by steps that need no fault
    named = cache(canonical)  # most steps lead to a state that is known
    queue = deque([start])

    def violated(violation: str, s: State, *last: str) -> Result:
        return Result(len(came_from), violation, (*_way_to(s, came_from), *last))

    while queue:
        s = queue.popleft()
        if (violation := invariants.of_state(s, scene)) is not None:
            return violated(violation, s)
        for step in steps(s, scene, weak, spare=s.faults < faults):
            if (violation := invariants.of_step(s, step, scene)) is not None:
                return violated(violation, s, step.name)
            t = named(step.after if step.fair else step.after._replace(faults=s.faults + 1))
            if step.fair and step.certain:
                before[t].append(s)
            if t not in came_from:
                came_from[t] = (s, step.name)
                queue.append(t)
                if len(came_from) % REPORT_EVERY == 0:
                    progress(len(came_from))
    stuck = _first_stuck(came_from, before)
    if stuck is None:
        return Result(len(came_from))
    return violated("L: from here no step without a fault leads to every run settled", stuck)


def canonical(s: State) -> State:
    """Renumbers epochs and fences in their order: they are only compared. Of a settled run only the status
    matters, unless a task or an outbox still refers to it."""
    referred = {task.run for w in s.workers for task in w.tasks} | {r for w in s.workers for r, _ in w.outbox}
    runs = tuple(run if run.in_flight or r in referred else Run(run.status) for r, run in enumerate(s.runs))
    epochs, fences = {NONE}, {0, s.fence, s.opened}
    for run in runs:
        epochs.add(run.owner)
        epochs.add(run.home)
        fences.add(run.fence)
    for w in s.workers:
        epochs.add(w.epoch)
        fences.update(task.fence for task in w.tasks)
        fences.update(fence for _, fence in w.outbox)
    newest = max(epochs)
    if newest == NONE + len(epochs) - 1 and max(fences) == len(fences) - 1:  # they have no gaps
        return s._replace(runs=runs, declared_dead=s.declared_dead & epochs, epochs=newest)
    return _renamed(s, runs, _ranks(epochs, NONE), _ranks(fences, 0))


def _renamed(s: State, runs: tuple[Run, ...], epoch: dict[int, int], fence: dict[int, int]) -> State:
    return s._replace(
        runs=tuple(
            changed(run, owner=epoch[run.owner], home=epoch[run.home], fence=fence[run.fence]) for run in runs
        ),
        workers=tuple(
            changed(
                w,
                epoch=epoch[w.epoch],
                tasks=frozenset(task._replace(fence=fence[task.fence]) for task in w.tasks),
                outbox=frozenset((r, fence[number]) for r, number in w.outbox),
            )
            for w in s.workers
        ),
        declared_dead=frozenset(epoch[dead] for dead in s.declared_dead if dead in epoch),
        epochs=max(epoch.values()),
        fence=fence[s.fence],
        opened=fence[s.opened],
    )


def _ranks(numbers: set[int], none: int) -> dict[int, int]:
    return {number: none + at for at, number in enumerate(sorted(numbers))}


def _way_to(s: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came_from[s]) is not None:
        s, name = step
        names.append(name)
    return tuple(reversed(names))


def _first_stuck(states: Iterable[State], before: dict[State, list[State]]) -> State | None:
    """Invariant L, backwards from the settled states. States without a process for ever are exempt."""
    good = deque(s for s in states if s.settled)
    reached = set(good)
    while good:
        for s in before[good.popleft()]:
            if s not in reached:
                reached.add(s)
                good.append(s)
    for s in states:
        alive = any(w.mode in ("up", "paused") or (w.mode == "down" and not w.restarts) for w in s.workers)
        if alive and s not in reached:
            return s
    return None
