"""The steps that are possible in a state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model import store
from tests.model.states import OPEN, TERMINAL, State, Task, Worker
from tests.model.store import Weak

NO_TASKS = frozenset[Task]()
EMPTY_OUTBOX = frozenset[tuple[int, int]]()


class Step(NamedTuple):
    name: str
    fair: bool
    """It needs no fault."""
    after: State
    saves: Task | None = None
    """The task whose write to the thread's values was accepted."""
    restores: int | None = None
    """The fence with which a restore was accepted."""
    certain: bool = True
    """It will happen in the end, if no other step does. A task that is not cancelled may execute for ever."""


class Scenario(NamedTuple):
    """The runs, the workers that admit them, and the faults beside crashes, pauses and false declarations of
    death. There are several small configurations, because the product of all features is too large."""

    strategies: tuple[str, ...]
    homes: tuple[int, ...]
    portable: tuple[bool, ...]
    cancels: frozenset[int] = frozenset()
    saves: frozenset[int] = frozenset()
    restarts: int = 1
    retries: int = 0
    attempts: int = 3
    pauses: int = 1
    drains: bool = False
    outages: bool = False
    deafness: bool = False
    admit_only: frozenset[int] = frozenset()
    """Workers that admit runs and execute none."""
    workers: int = 2

    def can_execute(self, s: State) -> bool:
        """Whether a worker that executes runs was not declared dead, and has a process."""
        return any(not s.dead(w.epoch) for i, w in enumerate(s.workers) if i not in self.admit_only)


def steps(s: State, scene: Scenario, weak: Weak, *, spare: bool) -> Iterator[Step]:
    """`spare`: one more fault is allowed."""
    for i, w in enumerate(s.workers):
        if spare:
            yield from _fails(s, i, w, scene)
        yield from _lives_and_dies(s, i, w, scene, weak)
        if w.mode == "up":
            yield from _executes(s, i, w, scene, weak, spare=spare)
            if s.store_up:
                yield from _coordinates(s, i, w, scene, weak, spare=spare)
                yield from _outbox(s, i, w, weak)
            elif w.tasks or w.outbox:
                yield Step(f"lease of {i} ends, registers anew", True, anew(s, i))
    if scene.outages:
        yield from _outage(s, scene, weak, spare=spare)


def _outage(s: State, scene: Scenario, weak: Weak, *, spare: bool) -> Iterator[Step]:
    if s.store_up and spare:
        yield Step("store goes down", False, s._replace(store_up=False))
    if not s.store_up:
        yield Step("store comes back", True, s._replace(store_up=True))
        if "acknowledge_first" in weak:
            for r in scene.cancels:
                if s.runs[r].status in OPEN:
                    yield Step(f"cancel {r} acknowledged", True, s.with_run(r, acknowledged=True))


def _fails(s: State, i: int, w: Worker, scene: Scenario) -> Iterator[Step]:
    if w.mode == "up":
        yield Step(f"crash {i}", False, s.with_worker(i, mode="down", tasks=NO_TASKS, outbox=EMPTY_OUTBOX))
        if w.pauses < scene.pauses:
            yield Step(f"pause {i}", False, s.with_worker(i, mode="paused", pauses=w.pauses + 1))


def _lives_and_dies(s: State, i: int, w: Worker, scene: Scenario, weak: Weak) -> Iterator[Step]:
    if w.mode == "up":
        if w.epoch in s.declared_dead:
            yield Step(f"worker {i} fences itself, registers anew", True, anew(s, i))
        if scene.drains and i == 0:
            yield from _drains(s, i, w, scene, weak)
    if w.mode == "paused":
        yield Step(f"resume {i}", True, s.with_worker(i, mode="up"))
    if w.mode == "down" and w.restarts < scene.restarts and s.store_up:
        yield Step(
            f"restart {i}",
            True,
            anew(s.with_worker(i, mode="up", restarts=w.restarts + 1, draining=False), i),
        )


def anew(s: State, i: int) -> State:
    """A new incarnation: a new epoch, no tasks, an empty outbox."""
    epoch = s.epochs + 1
    return s.with_worker(i, epoch=epoch, tasks=NO_TASKS, outbox=EMPTY_OUTBOX)._replace(epochs=epoch)


def _drains(s: State, i: int, w: Worker, scene: Scenario, weak: Weak) -> Iterator[Step]:
    if not w.draining:
        yield Step(f"drain {i}", True, s.with_worker(i, draining=True))
        return
    for r, run in enumerate(s.runs):  # grace is over
        kept = run.stopped or scene.retries
        if run.holds and run.owner == w.epoch and run.status in OPEN and not kept:
            yield Step(f"grace of {i} ends, cancel {r}", True, store.decide(s, r, weak))
        for task in w.tasks:
            if task.run == r and not task.deaf and scene.retries and s.store_up:
                after = store.hand_over(s, r, w.epoch, task.fence)
                if after is not None:
                    after = after.with_worker(i, tasks=w.tasks - {task})
                    yield Step(f"{i} hands {r} over", True, after)
    holding = any(
        run.holds and run.owner == w.epoch and not (run.stopped and run.status in OPEN) for run in s.runs
    )
    if "drain_leaves_tasks" in weak or not (w.tasks or holding or w.outbox):
        after = store.declare_dead(s, w.epoch).with_worker(i, mode="gone")
        yield Step(f"{i} retires", True, after)


def _executes(s: State, i: int, w: Worker, scene: Scenario, weak: Weak, *, spare: bool) -> Iterator[Step]:
    """Steps of the tasks: saves, and their ends."""
    for task in w.tasks:
        run, r = s.runs[task.run], task.run
        without = s.with_worker(i, tasks=w.tasks - {task})
        if r in scene.saves and s.store_up and not task.closed:
            saved = store.save(s, r, task.fence, weak)
            if saved is not None and saved != s:
                yield Step(f"task {r} saves", True, saved, saves=task)
            elif saved is None:
                yield Step(f"save of {r} refused, task dropped", True, without)
        mine = store.owned(s, r, w.epoch, task.fence)
        if task.deaf:
            continue
        delivered = run.status in TERMINAL and mine and "no_tick" not in weak
        if delivered:
            yield Step(f"cancel of {r} delivered, task stops", True, without)
            if scene.deafness and spare:
                deaf = w.tasks - {task} | {task._replace(deaf=True)}
                yield Step(
                    f"cancel of {r} delivered, task does not stop", False, s.with_worker(i, tasks=deaf)
                )
        yield from _ends(s, without, i, w, task, weak, lost=scene.outages and spare)


def _ends(
    s: State, without: State, i: int, w: Worker, task: Task, weak: Weak, *, lost: bool
) -> Iterator[Step]:
    """The task has returned: its finish is committed, or queued in the outbox. `lost`: answers get lost."""
    r = task.run
    queued = without.with_worker(i, outbox=w.outbox | {(r, task.fence)})
    if not s.store_up:
        yield Step(f"task {r} ends, finish queued", True, without if "outbox_dropped" in weak else queued)
        return
    done = store.finish(without, r, w.epoch, task.fence, weak)
    if done is None:
        if not store.owned(s, r, w.epoch, task.fence):
            yield Step(f"finish of {r} refused, task dropped", True, without)
        return
    yield Step(f"finish {r} by {i}", True, done, certain=s.runs[r].status in OPEN)
    if lost:  # committed, and the answer was lost
        unknown = store.finish(queued, r, w.epoch, task.fence, weak)
        if unknown is not None:
            yield Step(f"finish {r} by {i}, outcome unknown", False, unknown)


def _outbox(s: State, i: int, w: Worker, weak: Weak) -> Iterator[Step]:
    """Queued finishes are written again with the same ids, so that a repetition has no effect."""
    for r, fence in w.outbox:
        written = s.with_worker(i, outbox=w.outbox - {(r, fence)})
        again = store.finish(written, r, w.epoch, fence, weak)
        if again is None and "outbox_unfenced" in weak:
            again = written.with_run(r, status="success", holds=False)
        mine = (s.runs[r].owner, s.runs[r].fence) == (w.epoch, fence)
        if (
            again is None
            and "retry_blindly" in weak
            and mine
            and s.fence == fence + 1
            and s.holder is not None
        ):
            # The present holder is another run.
            again = written.with_run(s.holder, status="success", holds=False)
        yield Step(f"queued finish of {r} by {i}", True, written if again is None else again)


def _coordinates(s: State, i: int, w: Worker, scene: Scenario, weak: Weak, *, spare: bool) -> Iterator[Step]:
    """The transactions that the coordinator on a worker starts."""
    takes = i not in scene.admit_only or "admitting_worker_takes" in weak
    for r, run in enumerate(s.runs):
        home = scene.homes[r] == i and (not w.draining or "drain_admits" in weak)
        if run.status == "-" and home:
            front = i in scene.admit_only
            after = store.admit(s, r, scene.strategies[r], w.epoch, weak, dispatched=front)
            if after is not None:
                yield Step(f"admit {r} ({scene.strategies[r]}) by {i}", True, after)
        if takes and not w.has_task(r) and (after := store.start(s, r, w.epoch, weak)) is not None:
            task = Task(r, run.fence)
            yield Step(f"start {r} by {i}", True, after.with_worker(i, tasks=w.tasks | {task}))
        if run.status in TERMINAL and store.owned(s, r, w.epoch, run.fence):
            yield from _settles(s, i, w, r, scene, weak)
        if r in scene.cancels and run.status in OPEN and w.epoch not in s.declared_dead:
            after = store.decide(s, r, weak)
            yield Step(f"cancel {r}", True, after.with_run(r, acknowledged=True))
    if takes and (after := store.claim(s, w.epoch, scene.portable, weak)) is not None:
        yield Step(f"claim by {i}", True, after)
    yield from _reaps(s, i, w, scene, weak, spare=spare)
    yield from _zombie_restores(s, w, weak)


def _settles(s: State, i: int, w: Worker, r: int, scene: Scenario, weak: Weak) -> Iterator[Step]:
    """stop -> close -> restore -> settle. A task that does not stop is closed and fenced first."""
    run = s.runs[r]
    task = next((task for task in w.tasks if task.run == r), None)
    if (
        task is not None
        and task.deaf
        and not task.closed
        and task.fence == run.fence
        and "no_force" not in weak
    ):
        after = store.refence(s, r, w.epoch, run.fence, weak)
        if after is not None:
            closed = task._replace(closed="force_without_close" not in weak)
            after = after.with_worker(i, tasks=w.tasks - {task} | {closed})
            yield Step(f"force {r} by {i}", True, after)
    forced = task is not None and task.deaf and (task.closed or task.fence < run.fence)
    if any(queued == r for queued, _ in w.outbox) or (task is not None and not forced):
        return
    if run.must_undo and (after := store.restore(s, r, run.fence, weak)) is not None:
        yield Step(f"restore {r} by {i}", True, after.with_run(r, undone=True), restores=run.fence)
    if (after := store.settle(s, r, w.epoch, run.fence, weak)) is not None:
        yield Step(f"settle {r} by {i}", True, after)


def _zombie_restores(s: State, w: Worker, weak: Weak) -> Iterator[Step]:
    """A worker that was declared dead during a restore continues it with its old fence."""
    for r, run in enumerate(s.runs):
        if run.rollback and run.attempts and run.owner != w.epoch and w.epoch in s.declared_dead:
            fence = run.fence - 1  # the one before the adoption
            after = store.restore(s, r, fence, weak)
            if after is not None and after != s:
                yield Step(f"late restore {r} with fence {fence}", True, after, restores=fence)


def _reaps(s: State, i: int, w: Worker, scene: Scenario, weak: Weak, *, spare: bool) -> Iterator[Step]:
    if w.epoch in s.declared_dead:
        return
    for j, peer in enumerate(s.workers):
        fair = peer.mode != "up"
        if j != i and peer.epoch not in s.declared_dead and peer.mode != "gone" and (fair or spare):
            yield Step(f"{i} declares {j} dead", fair, store.declare_dead(s, peer.epoch))
    if "no_sweep" not in weak:
        if i not in scene.admit_only and not w.draining:
            after = store.adopt_attempts(s, w.epoch, scene.portable, scene.retries, weak)
            if after != s:
                yield Step(f"{i} adopts", True, after)
        yield from _gives_up(s, i, scene)
        after = store.sweep(s, w.epoch, scene.portable, scene.attempts, weak, scene.retries)
        if after != s:
            yield Step(f"sweep by {i}", True, after)


def _gives_up(s: State, i: int, scene: Scenario) -> Iterator[Step]:
    """Dispatched runs wait for a worker that executes them only for a while."""
    if not scene.admit_only or scene.can_execute(s):
        return
    for r, run in enumerate(s.runs):
        if run.status == "pending" and (run.waiting or s.dead(run.owner)):
            yield Step(f"sweep by {i} gives {r} up", True, store.give_up(s, r))
