"""Every reachable state, breadth first: what is found is found on a shortest way."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.model import invariants
from tests.model.states import NONE, Run, State
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
    """Visit what is reachable with at most so many faults; stop at the first violation."""
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    before: dict[State, list[State]] = defaultdict(list)  # by steps that need no fault
    queue = deque([start])

    def found(violation: str, s: State, *last: str) -> Result:
        return Result(len(came_from), violation, (*_way_to(s, came_from), *last))

    while queue:
        s = queue.popleft()
        if (violation := invariants.of_state(s, scene)) is not None:
            return found(violation, s)
        for step in steps(s, scene, weak, spare=s.faults < faults):
            if (violation := invariants.of_step(s, step)) is not None:
                return found(violation, s, step.name)
            t = canonical(step.after._replace(faults=s.faults + (not step.fair)))
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
    return found("L: from here no step without a fault leads to every run settled", stuck)


def canonical(s: State) -> State:
    """Epochs and fences are compared, never counted with: number them anew in their order. Of a settled
    run nothing matters but its status, unless a task or an outbox still refers to it."""
    referred = {task.run for w in s.workers for task in w.tasks} | {r for w in s.workers for r, _ in w.owed}
    runs = tuple(run if run.in_flight or r in referred else Run(run.status) for r, run in enumerate(s.runs))
    epoch = _ranks(
        {w.epoch for w in s.workers} | {run.owner for run in runs} | {run.home for run in runs}, NONE
    )
    fence = _ranks(
        {s.fence, s.opened}
        | {run.fence for run in runs}
        | {task.fence for w in s.workers for task in w.tasks}
        | {owed for w in s.workers for _, owed in w.owed},
        0,
    )
    if all(old == new for ranks in (epoch, fence) for old, new in ranks.items()):
        return s._replace(
            runs=runs, buried=frozenset(one for one in s.buried if one in epoch), epochs=max(epoch)
        )
    return s._replace(
        runs=tuple(
            run._replace(owner=epoch[run.owner], home=epoch[run.home], fence=fence[run.fence]) for run in runs
        ),
        workers=tuple(
            w._replace(
                epoch=epoch[w.epoch],
                tasks=frozenset(task._replace(fence=fence[task.fence]) for task in w.tasks),
                owed=frozenset((r, fence[owed]) for r, owed in w.owed),
            )
            for w in s.workers
        ),
        buried=frozenset(epoch[one] for one in s.buried if one in epoch),
        epochs=max(epoch.values()),
        fence=fence[s.fence],
        opened=fence[s.opened],
    )


def _ranks(numbers: set[int], none: int) -> dict[int, int]:
    return {number: none + at for at, number in enumerate(sorted(numbers | {none}))}


def _way_to(s: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came_from[s]) is not None:
        s, name = step
        names.append(name)
    return tuple(reversed(names))


def _first_stuck(states: Iterable[State], before: dict[State, list[State]]) -> State | None:
    """L, backwards from the good states. Where every process is gone for good nothing can be asked."""
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
