"""What there is: one thread, a few runs that want it, two workers that may die.

Immutable tuples, so that a state is its own key. Hints are not modelled: whatever a message would
hurry, its receiver may also do by itself, now or later, so losing one is the same as being slow.
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
    """A run's code, executing on a worker. `deaf`: it was told to stop and does not. `closed`: its
    process lets no write of it out any more."""

    run: int
    fence: int
    deaf: bool = False
    closed: bool = False


class Run(NamedTuple):
    """A row, and two ghosts that only the checks look at: `found` (the thread's values when it started)
    and `acknowledged` (a caller was told that it is cancelled)."""

    status: str = "-"  # not admitted yet
    holds: bool = False
    owner: int = NONE  # epoch
    home: int = NONE  # epoch, where it was admitted into the waiting line
    fence: int = 0
    rollback: bool = False  # it was cancelled with the action rollback
    started: bool = False
    base: int = NONE  # the undo reference: the values before its first save
    attempts: int = 0  # adoptions of its rollback
    undone: bool = False  # its restore is complete
    failed: bool = False  # its restore was given up
    found: int = NONE
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
    """One process after the other. `owed` is its outbox: finishes (run, fence) of which it does not know
    that the store has them."""

    mode: str = "up"  # | paused | down | gone (it drained, and left)
    epoch: int = 0
    draining: bool = False
    restarts: int = 0
    pauses: int = 0
    tasks: frozenset[Task] = frozenset()
    owed: frozenset[tuple[int, int]] = frozenset()

    def has_task(self, run: int) -> bool:
        return any(task.run == run for task in self.tasks)


class State(NamedTuple):
    """`fence` is the newest one given out, `opened` the newest that the store of the thread's values has
    seen. The values are 0 at first; run r writes r+1."""

    runs: tuple[Run, ...]
    workers: tuple[Worker, ...]
    buried: frozenset[int] = frozenset()
    epochs: int = 1  # the newest one given out
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
        """Buried, or without a process that has it: what a sweep goes by."""
        present = any(w.epoch == epoch and w.mode in ("up", "paused") for w in self.workers)
        known_down = any(w.epoch == epoch and w.mode == "down" for w in self.workers)
        return epoch in self.buried or not (present or known_down)

    @property
    def settled(self) -> bool:
        return not any(run.in_flight for run in self.runs)


@cache
def changed(one: R, **change: object) -> R:
    """There are few different runs and workers, in however many states."""
    return one._replace(**change)


def put(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])
