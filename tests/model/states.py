"""A state: one thread, a few runs that want to hold it, two workers that may die.

Immutable tuples, so that a state is its own key. Hints are not modelled: a hint only makes its receiver
do earlier what it does anyway, so a lost hint is the same as a slow receiver.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, TypeVar

TERMINAL = frozenset({"success", "interrupted", "error"})
OPEN = frozenset({"pending", "running"})
NONE = -1

T = TypeVar("T")
R = TypeVar("R", "Run", "Worker")


class Task(NamedTuple):
    """A run's code, executing on a worker. `deaf`: its cancel was delivered and it does not stop. `closed`:
    its process lets no more writes of it out."""

    run: int
    fence: int
    deaf: bool = False
    closed: bool = False


class Run(NamedTuple):
    """A row, and two variables that only the invariants read: `values_at_start` (the thread's values when the
    run started) and `acknowledged` (its cancel was acknowledged to a caller)."""

    status: str = "-"  # not admitted yet
    holds: bool = False
    owner: int = NONE  # epoch
    home: int = NONE  # epoch of the worker that admitted it to the queue
    fence: int = 0
    rollback: bool = False  # it was cancelled with the action rollback
    started: bool = False
    base: int = NONE  # the undo reference: the values before its first save
    attempts: int = 0  # adoptions of its rollback
    undone: bool = False  # its restore is complete
    failed: bool = False  # its restore was given up
    deaths: int = 0  # of its workers, after which another worker continues it
    stopped: bool = False  # an attempt is over (its worker died or drains), and the next has not begun
    values_at_start: int = NONE
    acknowledged: bool = False

    @property
    def in_flight(self) -> bool:
        return self.holds or self.status in OPEN

    @property
    def waiting(self) -> bool:
        return self.status == "pending" and not self.holds

    @property
    def must_undo(self) -> bool:
        done = self.undone or self.failed
        return self.rollback and self.holds and self.status in TERMINAL and self.started and not done


class Worker(NamedTuple):
    """A sequence of processes. `outbox`: finishes (run, fence) that the store has not acknowledged."""

    mode: str = "up"  # | paused | down | gone (drained and retired)
    epoch: int = 0
    draining: bool = False
    restarts: int = 0
    pauses: int = 0
    tasks: frozenset[Task] = frozenset()
    outbox: frozenset[tuple[int, int]] = frozenset()

    def has_task(self, run: int) -> bool:
        return any(task.run == run for task in self.tasks)


class State(NamedTuple):
    """`fence` is the newest one issued, `opened` the newest one that the store of the thread's values has
    received. The values are 0 at first; run r writes r+1."""

    runs: tuple[Run, ...]
    workers: tuple[Worker, ...]
    declared_dead: frozenset[int] = frozenset()
    epochs: int = 1  # the newest one issued
    fence: int = 0
    opened: int = 0
    values: int = 0
    store_up: bool = True
    faults: int = 0

    def with_run(self, r: int, **change: object) -> State:
        return State(put(self.runs, r, changed(self.runs[r], **change)), *self[1:])

    def with_worker(self, i: int, **change: object) -> State:
        return State(self.runs, put(self.workers, i, changed(self.workers[i], **change)), *self[2:])

    @property
    def holder(self) -> int | None:
        return next((r for r, run in enumerate(self.runs) if run.holds), None)

    def dead(self, epoch: int) -> bool:
        """Whether the epoch was declared dead or no process has it: the condition of a sweep."""
        present = any(w.epoch == epoch and w.mode in ("up", "paused") for w in self.workers)
        known_down = any(w.epoch == epoch and w.mode == "down" for w in self.workers)
        return epoch in self.declared_dead or not (present or known_down)

    @property
    def settled(self) -> bool:
        return not any(run.in_flight for run in self.runs)


@cache
def changed(one: R, **change: object) -> R:
    """`one` with changed fields. Cached, because many states share few different runs and workers."""
    return one._replace(**change)


def put(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])
