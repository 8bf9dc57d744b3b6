"""The specification of a run store, as a small pure program.

Answers are compared as plain tuples; an error is the name of its type. Of times, only leases and ages are
modelled. The model's clock moves with the store's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.support import strategies

OPEN = ("pending", "running")
ROLLBACKS = 3
Answer = Any


@dataclass
class Worker:
    ttl: int
    lease_until: int
    dead_at: int | None = None
    signed_off: bool = False
    beats: int = 0
    draining: bool = False


@dataclass
class Thread:
    fence: int = 0
    seq: int = 0
    values: Any = None
    interrupts: Any = None
    used: int = 0
    ttl: int | None = None
    temporary: bool = False


@dataclass
class Run:
    run_id: str
    thread: str
    order: int
    key: str | None
    status: str = "pending"
    holds: bool = False
    owner: int | None = None
    home: int | None = None
    delay: int | None = None
    not_before: int | None = None
    portable: bool = False
    retries: int = 0
    attempt: int = 1
    stopped_at: int | None = None
    holders: set[int] = field(default_factory=set[int])
    """Workers that have held the thread for it."""
    fence: int = 0
    seq: int = 0
    action: str | None = None
    started: bool = False
    settled_at: int | None = None
    paused: bool = False
    undo: str | None = None
    saved: tuple[Any, Any] | None = None
    saved_last: bool = False

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def in_flight(self) -> bool:
        return self.holds or self.open

    @property
    def waiting(self) -> bool:
        """Queued or delayed."""
        queued = self.owner is None and (self.home is not None or self.portable)
        return self.status == "pending" and not self.holds and queued

    @property
    def may_save_last(self) -> bool:
        """It must stop without a rollback, so its last save is accepted."""
        return strategies.keeps_last_save(self.status, self.action)

    @property
    def to_undo(self) -> bool:
        """A rollback was decided over a run that had started and still holds its thread."""
        return not self.open and self.holds and self.action == "rollback" and self.started


@dataclass(frozen=True)
class Own:
    """The guard of an owner's write."""

    run_id: str
    thread: str
    epoch: int
    fence: int


@dataclass
class Model:
    now: int
    workers: dict[int, Worker] = field(default_factory=dict[int, Worker])
    threads: dict[str, Thread] = field(default_factory=dict[str, Thread])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    fences: dict[str, int] = field(default_factory=dict[str, int])
    """The fences of deleted threads."""

    # -- who

    def alive(self, epoch: int | None) -> bool:
        return epoch in self.workers and self.workers[epoch].dead_at is None

    def live(self, epoch: int | None) -> bool:
        return epoch is not None and self.alive(epoch) and not self.workers[epoch].draining

    def of(self, thread: str) -> list[Run]:
        return sorted((run for run in self.runs.values() if run.thread == thread), key=lambda run: run.seq)

    def in_flight(self, thread: str) -> list[Run]:
        """The holder first, then queued runs in the order of admission, then delayed runs."""
        runs = [run for run in self.of(thread) if run.in_flight]
        return sorted(runs, key=lambda run: (not run.holds, run.not_before is not None))

    def line(self, thread: str) -> list[Run]:
        return [run for run in self.of(thread) if run.waiting and run.not_before is None]

    def queue_due(self, thread: str) -> None:
        """Due runs join the end of the queue."""
        due = [run for run in self.of(thread) if run.waiting and (run.not_before or self.now + 1) <= self.now]
        for run in sorted(due, key=lambda run: run.not_before or 0):
            self.threads[thread].seq += 1
            run.seq, run.not_before = self.threads[thread].seq, None

    def next_home(self, thread: str) -> int | None:
        for head in self.line(thread):
            return 0 if head.portable and not self.alive(head.home) else head.home
        return None

    def mine(self, own: Own) -> Run | None:
        run = self.runs.get(own.run_id)
        if run is None or (run.owner, run.fence) != (own.epoch, own.fence) or not self.alive(own.epoch):
            return None
        return run

    def guarded(self, own: Own) -> Run | None:
        run = self.mine(own)
        return None if run is None or run.settled_at is not None else run

    # -- admission

    def admit(
        self, new: Run, strategy: str, epoch: int, *, must_exist: bool = False, temporary: int | None = None
    ) -> Answer:
        if not self.live(epoch):
            return "EpochDead"
        if must_exist and new.thread not in self.threads:
            return "ThreadNotFound"
        if (there := self._there(new)) is not None:
            return there
        if self._placement(strategy, new).refused:  # nothing is written then
            return ("ConflictError", self._in_the_way(new.thread))
        self.queue_due(new.thread)
        placed = self._placement(strategy, new)
        if placed.action is not None:
            for run in self.in_flight(new.thread):
                self._decide(run, "interrupted", placed.action)
        if new.thread not in self.threads and temporary is not None:
            self._make(new.thread, temporary, temporary=True)
        return self._place(new, epoch, holds=placed.holds, home=not placed.holds)

    def _placement(self, strategy: str, new: Run) -> strategies.Placement:
        others = (
            strategies.InFlight(run.holds, run.not_before is not None) for run in self.in_flight(new.thread)
        )
        return strategies.placement(strategy, others, delayed=new.delay is not None)

    def _in_the_way(self, thread: str) -> str:
        """Returns the run that a rejection names. Delayed runs that are due count as queued."""

        def order(run: Run) -> tuple[int, int]:
            if run.holds or run.not_before is None:
                return (0 if run.holds else 1, 0)
            return (2, run.not_before) if run.not_before <= self.now else (3, 0)

        return min(self.in_flight(thread), key=order).run_id

    def insert(self, new: Run, epoch: int) -> Answer:
        if not self.live(epoch):
            return "EpochDead"
        if (there := self._there(new)) is not None:
            return there
        others = [run for run in self.in_flight(new.thread) if (run.not_before or 0) <= self.now]
        return self._place(new, epoch, holds=not others, home=False)

    def _there(self, new: Run) -> Answer:
        if (known := self.runs.get(new.run_id)) is not None:
            return ("existing", known.run_id, known.holds, known.fence, known.seq)
        for known in self.runs.values():
            if new.key is not None and known.key == new.key:
                if known.thread != new.thread:
                    return ("IdempotencyConflict", known.run_id)
                return ("existing", known.run_id, known.holds, known.fence, known.seq)
        return None

    def _place(self, new: Run, epoch: int, *, holds: bool, home: bool) -> Answer:
        thread = self.threads.get(new.thread) or self._make(new.thread, None)
        thread.seq, thread.used = thread.seq + 1, self.now
        thread.fence += holds
        new = replace(new, holds=holds, fence=thread.fence if holds else 0, seq=thread.seq)
        new.owner, new.home = (None, epoch) if home else (epoch, None)
        new.not_before = None if new.delay is None else self.now + new.delay
        self.runs[new.run_id] = new
        if new.holds:
            new.holders.add(epoch)
        return ("admitted", new.run_id, new.holds, new.fence, new.seq)

    def claim(self, thread: str, epoch: int) -> Answer:
        if not self.alive(epoch):
            return "EpochDead"
        self.queue_due(thread)
        busy = [run for run in self.in_flight(thread) if not run.waiting]
        if busy:
            first = busy[0]
            again = first.owner == epoch and first.home is not None and not first.started
            return (first.run_id, first.fence) if again else None
        line = self.line(thread)
        if not line:
            return None
        head = line[0]
        if head.home != epoch and not (head.portable and not self.alive(head.home) and self.live(epoch)):
            return None
        self.threads[thread].fence += 1
        self.threads[thread].used = self.now
        head.holds, head.owner, head.home, head.fence = True, epoch, epoch, self.threads[thread].fence
        head.holders.add(epoch)
        return (head.run_id, head.fence)

    def withdraw(self, run_id: str, epoch: int) -> Answer:
        run = self.runs.get(run_id)
        if run is None:
            return None
        at = run.owner if run.owner is not None else run.home
        if at == epoch and run.settled_at is None:
            run.status = "interrupted" if run.open else run.status
            run.action = run.action or "interrupt"
            run.holds, run.settled_at = False, self.now
        return (run.status, run.settled_at is not None)

    # -- decisions

    def decide(self, run_id: str, status: str, action: str) -> Answer:
        run = self.runs.get(run_id)
        if run is None:
            return None
        won = self._decide(run, status, action)
        return (run.status, won, run.settled_at is not None, run.action)

    def _decide(self, run: Run, status: str, action: str) -> bool:
        if not run.open:
            return False
        run.status, run.action = status, action
        if run.owner is None:
            run.settled_at = self.now
        return True

    # -- the owner's writes

    def start(self, own: Own) -> Answer:
        run = self.guarded(own)
        if run is not None and run.status == "pending":
            run.status, run.started, run.saved, run.stopped_at = "running", True, None, None
            return ("running", self.threads[run.thread].values)
        run = self.mine(own)
        if run is None or run.status == "pending":
            return None
        if run.status == "running" and run.holds:
            run.stopped_at = None  # a further attempt begins
        return (run.status, self.threads[run.thread].values if run.status == "running" else None)

    def save(self, own: Own, values: Any, *, last: bool = False) -> Answer:
        run = self.guarded(own)
        if run is None or not run.holds or not (run.status == "running" or (last and run.may_save_last)):
            return "StaleFence"
        thread = self.threads[run.thread]
        if run.status != "running":
            if run.saved_last and thread.values != values:
                return "StaleFence"
            run.saved_last = True
        run.saved = run.saved or (thread.values, thread.interrupts)
        thread.values, thread.interrupts, thread.used = values, None, self.now
        return None

    def restore(self, own: Own) -> Answer:
        run = self.guarded(own)
        if run is None or not run.holds:
            return "StaleFence"
        thread = self.threads[run.thread]
        if run.saved is not None:
            (thread.values, thread.interrupts), thread.used = run.saved, self.now
        return ("values", thread.values)

    def finish(self, own: Own, status: str, values: Any, *, paused: bool, hold: bool) -> Answer:
        run = self.guarded(own)
        if run is None or run.to_undo:
            return self._why_not(own)
        if run.open:
            run.status, run.paused = status, paused
        run.holds = run.holds and hold
        run.settled_at = None if hold else self.now
        home = self.next_home(run.thread)
        if run.status == status == "success" and run.action is None and run.fence:
            thread = self.threads[run.thread]
            if values is not None:
                thread.values, thread.used = values, self.now
            thread.interrupts = None
        elif run.may_save_last and status == "success" and values is not None and run.fence and not hold:
            thread = self.threads[run.thread]
            thread.values, thread.interrupts, thread.used = values, None, self.now
        elif (
            values is not None and run.fence and not hold and status != "success" and run.action != "rollback"
        ):
            thread = self.threads[run.thread]  # the state that the run has left
            thread.values, thread.interrupts, thread.used = values, None, self.now
        return (run.status, False, False, home)

    def settle(self, own: Own, values: Any, undo: str | None) -> Answer:
        run = self.guarded(own)
        if run is None or run.open:
            return self._why_not(own)
        run.holds, run.settled_at, run.undo = False, self.now, undo or run.undo
        if values is not None:
            self.threads[run.thread].values, self.threads[run.thread].used = values, self.now
        return (run.status, False, False, self.next_home(run.thread))

    def _why_not(self, own: Own) -> Answer:
        """(status, lost, undo, next home)"""
        run = self.mine(own)
        if run is None:
            known = self.runs.get(own.run_id)
            return (known.status if known else None, True, False, None)
        if run.settled_at is not None:
            return (run.status, False, False, self.next_home(run.thread))
        return (run.status, False, run.action == "rollback", None)

    def hand_over(self, own: Own) -> Answer:
        run = self.guarded(own)
        if run is not None and run.holds and run.portable and run.open:
            run.stopped_at = run.stopped_at or self.now
        mine = self.mine(own)
        return None if mine is None else (mine.status, mine.settled_at is not None)

    def refence(self, own: Own) -> Answer:
        run = self.guarded(own)
        if run is not None and run.holds:
            run.fence += 1
            self.threads[run.thread].fence, self.threads[run.thread].used = run.fence, self.now
            return run.fence
        known = self.runs.get(own.run_id)
        if known is None or not known.holds or known.owner != own.epoch or not self.alive(own.epoch):
            return None
        return known.fence if known.fence > own.fence > 0 else None

    # -- workers

    def register(self, epoch: int, ttl: int) -> Answer:
        assert epoch not in self.workers, "an epoch was issued twice"
        self.workers[epoch] = Worker(ttl, self.now + ttl)

    def beat(self, epoch: int) -> Answer:
        if not self.alive(epoch):
            return False
        worker = self.workers[epoch]
        worker.beats, worker.lease_until = worker.beats + 1, self.now + worker.ttl
        return True

    def declare_dead(self, epoch: int, beats: int, *, proven: bool) -> Answer:
        worker = self.workers.get(epoch)
        if worker is None or worker.dead_at is not None or worker.beats != beats:
            return False
        if not proven and worker.lease_until >= self.now:
            return False
        worker.dead_at = self.now
        return True

    def drain(self, epoch: int) -> Answer:
        if not self.alive(epoch):
            return []
        self.workers[epoch].draining = True
        handed = [run for run in self.runs.values() if run.waiting and run.portable and run.home == epoch]
        for run in handed:
            run.home = None
        return sorted(run.run_id for run in handed)

    def retire(self, epoch: int) -> Answer:
        if self.alive(epoch):
            self.workers[epoch].dead_at, self.workers[epoch].signed_off = self.now, True
        orphans = [
            run
            for run in self._orphans()
            if epoch == (run.owner if run.owner is not None else run.home) and not self._may_continue(run)
        ]
        return self._end_all(orphans, None)

    def sweep(self, by: int) -> Answer:
        adopter = by if self.alive(by) else None
        orphans = self._orphans()
        ended = self._given_before(by) + self._adopt_attempts(by) if self.live(by) else []
        rest = [run for run in orphans if not self._may_continue(run)]
        ended = sorted([*ended, *self._end_all(rest, adopter)])
        for run in self.runs.values():  # decided beside the slot
            if (
                run.settled_at is None
                and run.action
                and not run.holds
                and run.owner
                and not self.alive(run.owner)
            ):
                run.settled_at = self.now
        return ended

    def _given_before(self, by: int) -> list[Any]:
        """What `by` has adopted for an attempt that it has not begun."""
        return [
            (run.run_id, run.status, run.fence)
            for run in self.runs.values()
            if run.owner == by and run.holds and run.stopped_at is not None and run.undo is None
        ]

    def _adopt_attempts(self, by: int) -> list[Any]:
        adopted: list[Any] = []
        for run in self.runs.values():
            owner_leaves = run.stopped_at is not None and not self.live(run.owner)
            if not self._may_continue(run) or not (owner_leaves or not self.alive(run.owner)):
                continue
            thread = self.threads[run.thread]
            thread.fence, thread.used = thread.fence + 1, self.now
            started = run.status == "running"
            run.owner, run.fence, run.attempt = by, thread.fence, run.attempt + started
            run.holders.add(by)
            run.retries -= started and run.stopped_at is None
            run.stopped_at = self.now
            adopted.append((run.run_id, run.status, run.fence))
        return adopted

    def _may_continue(self, run: Run) -> bool:
        """It may have a further attempt. Every worker knows its assistant."""
        if not (run.open and run.holds and run.portable):
            return False
        died = [
            w for w in map(self.workers.get, run.holders) if w and w.dead_at is not None and not w.signed_off
        ]
        return len(died) < 3 if run.status == "pending" else run.stopped_at is not None or run.retries > 0

    def _orphans(self) -> list[Run]:
        def orphaned(run: Run) -> bool:
            if run.owner is not None:
                return not self.alive(run.owner)
            return not run.portable and not self.alive(run.home)

        return [run for run in self.runs.values() if run.in_flight and orphaned(run)]

    def _end_all(self, orphans: list[Run], by: int | None) -> Answer:
        ended: list[Any] = []
        for run in orphans:
            attempts = int((run.undo or "adopted 0").removeprefix("adopted "))
            if run.to_undo and attempts < ROLLBACKS:
                if by is None:
                    continue
                thread = self.threads[run.thread]
                thread.fence, thread.used = thread.fence + 1, self.now
                run.owner, run.fence, run.undo = by, thread.fence, f"adopted {attempts + 1}"
                ended.append((run.run_id, run.status, run.fence))
            else:
                run.undo = "failed" if run.to_undo else run.undo
                run.status = "error" if run.open else run.status
                run.holds, run.settled_at = False, self.now
                ended.append((run.run_id, run.status, None))
        return sorted(ended)

    # -- threads

    def make(self, thread: str, ttl: int | None, *, existing_ok: bool) -> Answer:
        if thread in self.threads:
            return self._thread(thread) if existing_ok else "ThreadExists"
        self._make(thread, ttl)
        return self._thread(thread)

    def _make(self, thread: str, ttl: int | None, *, temporary: bool = False) -> Thread:
        fence = self.fences.get(thread, 0)
        made = self.threads[thread] = Thread(fence, used=self.now, ttl=ttl, temporary=temporary)
        return made

    def patch(self, thread: str, ttl: int | None) -> Answer:
        if thread not in self.threads:
            return "ThreadNotFound"
        known = self.threads[thread]
        known.ttl, known.used, known.temporary = ttl, self.now, False
        return self._thread(thread)

    def _thread(self, name: str) -> Answer:
        thread = self.threads[name]
        return (thread.fence, thread.ttl, thread.used, self.status(name))

    def expire(self) -> Answer:
        removed = sorted((name, sorted(run.run_id for run in self.of(name))) for name in self.expired())
        for name, run_ids in removed:
            self.fences[name] = self.threads.pop(name).fence
            for run_id in run_ids:
                del self.runs[run_id]
        return removed

    def expired(self) -> list[str]:
        return [name for name, thread in self.threads.items() if self._expired(name, thread)]

    def _expired(self, name: str, thread: Thread) -> bool:
        if thread.ttl is None or thread.used + thread.ttl > self.now:
            return False
        return all(
            run.settled_at is not None and run.settled_at + thread.ttl <= self.now for run in self.of(name)
        )

    # -- upkeep

    def last(self, thread: str) -> Run | None:
        """The run from which the thread's status derives."""
        counted = [
            run
            for run in self.of(thread)
            if (run.action != "rollback" or run.undo == "failed")
            and not (run.status == "interrupted" and not run.started)
        ]
        return max(counted, key=lambda run: run.order, default=None)

    def prune(self, age: int, key_age: int) -> Answer:
        keep = {last.run_id for name in self.threads if (last := self.last(name)) is not None}
        gone = [
            run.run_id
            for run in self.runs.values()
            if run.settled_at is not None
            and run.settled_at <= self.now - (max(age, key_age) if run.key else age)
            and run.run_id not in keep
        ]
        for run_id in gone:
            del self.runs[run_id]
        return len(gone)

    def status(self, thread: str) -> str:
        if self.in_flight(thread):
            return "busy"
        last = self.last(thread)
        if last is None:
            return "idle"
        if last.status in ("error", "timeout") or last.undo == "failed":
            return "error"
        return "interrupted" if last.paused or last.status == "interrupted" else "idle"
