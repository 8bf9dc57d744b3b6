"""What really happened, commit by commit, and whether it was allowed.

The world's own account of runs, workers and values, made from the audit as the database writes it (a trigger
calls `note` inside the transaction) and from the answers to calls. Most properties are checked at the commit,
answer or step that would break them; `final` checks the rest at the end.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from coordinator.runs.work import PARTS
from stores.catalogue import RemovedThread
from stores.rows import Admission, Decision, Finish, HandedOver, Orphan, Outcome, Ownership, Started
from stores.spec import AdmissionRequest
from stores.states import OPEN, RunStatus

OWNERS = frozenset(
    {"start", "save", "restore", "finish", "settle", "refence", "readopt", "hand_over", "delete_thread"}
)
"""Writes that carry run, epoch and fence."""


class Stopper(Protocol):
    """A process of the world."""

    died: float | None


@dataclass
class Run:
    run_id: str
    thread_id: str
    number: int
    epoch: int | None
    status: RunStatus = RunStatus.pending
    holds: bool = False
    fence: int = 0
    waiting: bool = False
    decisions: int = 0
    adoptions: int = 0
    retried: set[int] = field(default_factory=set[int])
    """The fences of attempts that its own worker, or one that adopted it, began anew. A repeated call returns
    the same fence."""
    settled_at: float | None = None
    forced: bool = False
    deleted: bool = False
    put_back: bool = False
    """Recreated from a worker's record: without its result, perhaps as it was before its end, and without an
    owner. Its worker remembers how it ended."""
    launched: bool = False
    """Its caller has launched it."""
    started: bool = False
    before: Any = None
    last_save: Any = None
    """Saved after its cancel was delivered."""
    result: Any = None
    acknowledged: bool = False
    stopped_by: Stopper | None = None
    """The process that has answered a cancel with CancelNotDurable: the task is stopped, and the store does
    not have the decision yet. It writes that, unless it ends before."""
    queued: bool = False
    refenced: bool = False
    handed_out: bool = False
    kind: str = "run"
    cancel_delivered_at: float | None = None
    home: int | None = None
    portable: bool = False
    retries: int = 0
    """Deaths of its worker that it may still survive."""
    handed_over: bool = False
    """Its attempt has stopped, and no other worker has it yet."""
    holders: set[int] = field(default_factory=set[int])
    """Epochs that have held the thread for it."""
    steps: int = 0
    """That it has saved, if it is a run that other workers may continue."""
    due: int | None = None
    """While it is delayed: until when, by the store's clock."""
    parent: str | None = None
    on_disconnect: str = "cancel"
    timeout: float | None = None
    idle: float | None = None
    queue: float | None = None
    """Time limits, s."""
    queued_at: float = 0.0
    """When it joined the queue, or will join it."""
    taken_at: float = 0.0
    started_at: float = 0.0
    sign_at: float = 0.0
    """When its code last gave a sign of life."""
    silence: float = 0.0
    """How long (s) it had given none when its idle timeout ended it, without pauses of its process."""
    abandoned: bool = False
    """Its caller has forgotten it, or has ended it before it started: a worker that claims its thread at the
    same time does not know the run, and releases the thread a moment later."""

    @property
    def outlives_drain(self) -> bool:
        """Whether no shutdown may end it. One that has not started may be ended if the store could not record
        the drain of its worker."""
        left = self.portable and self.holds and self.status in OPEN
        return left and (self.handed_over or (self.retries > 0 and self.started_at > 0))

    @property
    def in_flight(self) -> bool:
        return not self.deleted and (self.holds or self.status in OPEN)


@dataclass
class Truth:
    now: Callable[[], float]
    wall: Callable[[], int] = int
    """The store's clock."""
    violations: list[str] = field(default_factory=list[str])
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    fences: dict[str, int] = field(default_factory=dict[str, int])
    dead: dict[int, float] = field(default_factory=dict[int, float])
    signed_off: set[int] = field(default_factory=set[int])
    """Epochs that are dead in the store, and since when."""
    beats: dict[int, float] = field(default_factory=dict[int, float])
    draining: set[int] = field(default_factory=set[int])
    killed: set[int] = field(default_factory=set[int])
    """Epochs of processes that were killed."""
    falsely: set[int] = field(default_factory=set[int])
    """Epochs that were declared dead while their process was alive."""
    death_known_at: dict[int, float] = field(default_factory=dict[int, float])
    """When the worker received that it is dead."""
    term: float = 0.0
    """How long a worker acts after its last renewal."""
    ttl: float = 0.0
    most_waiting: int = 0
    few_places: bool = False
    """Workers have a limit on the runs that they execute: with its turn, a run may wait for a place."""
    longest_stop: float = 0.0
    quiet: bool = False
    """This world has no faults, so that latencies can be checked."""
    reported: set[str] = field(default_factory=set[str])
    keys: dict[str, str] = field(default_factory=dict[str, str])
    clock_jumped: bool = False
    removed: dict[str, int] = field(default_factory=dict[str, int])
    """By thread, the last fence of the one that was removed last."""
    written: dict[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    """By run, its thread and its entry in the database elsewhere, unless it was undone or replaced."""
    _gone: list[str] = field(default_factory=list[str])
    _notes: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    _places: Iterator[int] = field(default_factory=count)
    """Places in the queues: a run that joins a queue later has a greater one."""

    def wrong(self, what: str) -> None:
        self.violations.append(f"{self.now():.3f} {what}")

    def note(self, *columns: Any) -> None:
        """Called by the database for each line of the audit, inside the transaction."""
        self._notes.append(columns)

    def gone(self, run_id: str) -> None:
        """Called by the database for each run that is deleted, inside the transaction."""
        self._gone.append(run_id)

    # -- at each commit

    def commit(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], call: Callable[[], Any]) -> Any:
        """Run the transaction and account for it."""
        self._notes.clear()
        self._gone.clear()
        own: Ownership | None = args[0] if op in OWNERS else None
        before = self.runs.get(own.run_id) if own is not None else None
        fence = before.fence if before is not None else None
        try:
            answer = call()
        except BaseException:
            self._notes.clear()
            self._gone.clear()
            raise
        notes, self._notes = self._notes, []
        if own is not None and (notes or op in ("save", "restore")):
            self._owner_wrote(op, own, fence)
        for columns in notes:
            self._apply(op, columns)
        known = getattr(self, f"_{op}", None)
        if known is not None:
            known(args, kwargs, answer, bool(notes))
        for run_id in self._gone:
            self._deleted(op, run_id)
        if any(columns[3] in OPEN and columns[4] not in OPEN for columns in notes):
            self._families()
        return answer

    def _deleted(self, op: str, run_id: str) -> None:
        run = self.runs[run_id]
        run.deleted = True
        if run.holds or run.status in OPEN:
            self.wrong(f"{op} deleted run {run_id}, which is in flight")

    def _families(self) -> None:
        """A run that ends without success ends its children."""
        for child in self.runs.values():
            parent = self.runs.get(child.parent or "")
            if parent is None or child.deleted or child.status not in OPEN:
                continue
            if parent.status not in OPEN and parent.status is not RunStatus.success and not parent.deleted:
                self.wrong(
                    f"run {child.run_id} continues although {parent.run_id}, its parent, is {parent.status}"
                )

    def _owner_wrote(self, op: str, own: Ownership, fence: int | None) -> None:
        if own.epoch in self.dead:
            self.wrong(f"{op} of dead epoch {own.epoch} was accepted for run {own.run_id}")
        if fence is not None and own.fence != fence:
            self.wrong(f"{op} with fence {own.fence} was accepted for run {own.run_id}, which has {fence}")

    def _apply(self, op: str, columns: tuple[Any, ...]) -> None:
        run_id, thread_id, what, old, new, holds, cause, epoch, fence, home = columns
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = Run(run_id, thread_id, next(self._places), epoch)
            run.waiting = run.queued = what == "queued"
            run.home = home
        took, same_fence = holds and not run.holds, fence == run.fence
        left = run.holds and not holds
        if what == "adopted" and new in OPEN:
            self._continued(run, epoch)
        if cause == "orphaned" and old in OPEN and self._may_continue(run) and not run.put_back:
            self.wrong(f"run {run_id} was ended as an orphan, and could be continued")
        if cause == "shutdown" and old in OPEN and run.outlives_drain and not run.put_back:
            self.wrong(f"run {run_id} was ended by a shutdown, and could be continued")
        run.status, run.holds, run.epoch = RunStatus(new), bool(holds), epoch
        if holds:
            run.holders.add(epoch)
        if what == "handed over" and holds:
            run.handed_over = True
            if new not in OPEN:
                self.wrong(f"run {run_id} was handed over, and is {new}")
        if what == "queued" and run.due is not None:
            self._has_come(run)
        if what == "claimed":
            self._taken_over(run, epoch)
        if old is None and what != "recorded" and epoch in self.draining:
            self.wrong(f"epoch {epoch} drains, and admitted run {run_id}")
        if cause == "shutdown" and run.portable and (run.waiting or run.due) and self.quiet and not holds:
            self.wrong(f"portable run {run_id} was ended by the shutdown of its home")
        if cause == "shutdown" and run.home is None and run.waiting and old in OPEN and new not in OPEN:
            self.wrong(f"run {run_id} was ended by the shutdown of a worker that had handed it over")
        run.home = home
        if took:
            self._took(run, epoch, fence)
        elif what == "recorded":
            run.deleted, run.put_back, run.decisions = False, True, 0
        elif fence != run.fence:
            self._fence_grew(run, fence)
        run.fence = fence
        if old is not None and old in OPEN and new not in OPEN:
            run.decisions += 1
            if run.decisions > 1:
                self.wrong(f"run {run_id} was decided twice")
            if cause == "parent" and run.parent is None:
                self.wrong(f"run {run_id} was ended with its parent, and has none")
            waits = bool((run.queued or run.due) and not run.taken_at)
            self._in_time(run, cause, waited=waits or (self.few_places and old == RunStatus.pending))
            if cause == "orphaned" and run.portable and (run.waiting or run.due is not None):
                self.wrong(f"portable run {run_id} was ended with its home, and others know its assistant")
            forgotten = op == "decide" and not (run.launched or run.started)
            alive = epoch not in self.dead and op != "retire" and not run.put_back
            if cause == "orphaned" and alive and not forgotten:
                self.wrong(f"run {run_id} of live epoch {epoch} was ended as an orphan")
        elif old is not None and old not in OPEN and new != old:
            self.wrong(f"run {run_id} went from {old} to {new}")
        if what == "fenced":
            run.refenced = True
        if left and op == "finish" and run.forced and not run.refenced:
            self.wrong(f"run {run_id} was freed by force, and its fence is still good")
        if (
            left
            and self.quiet
            and run.cancel_delivered_at is not None
            and self.now() - run.cancel_delivered_at > self.longest_stop
        ):
            took = self.now() - run.cancel_delivered_at
            self.wrong(f"the thread of run {run_id} was freed {took:.1f} s after the cancel was delivered")
        if what == "adopted":
            run.adoptions += new not in OPEN
            if same_fence:
                self.wrong(f"run {run_id} was adopted with the fence of its dead owner")
            if epoch in self.dead:
                self.wrong(f"dead epoch {epoch} adopted run {run_id}")
        if new not in OPEN and not holds:
            run.waiting, run.due = False, None
            if left or run.settled_at is None:
                run.settled_at = self.now()

    def _may_continue(self, run: Run) -> bool:
        """After the death of its worker."""
        if run.status is RunStatus.pending:
            died = run.holders & self.dead.keys() - self.signed_off
            return run.portable and run.holds and len(died) < 3
        return run.outlives_drain

    def _continued(self, run: Run, by: int) -> None:
        """Another worker has become the owner of a run for a further attempt."""
        if not run.portable:
            self.wrong(f"run {run.run_id} is continued by epoch {by}, and is not portable")
        if by in self.draining:
            self.wrong(f"epoch {by} drains, and continues run {run.run_id}")
        if run.epoch not in self.dead and not (run.handed_over and run.epoch in self.draining):
            self.wrong(f"run {run.run_id} of live epoch {run.epoch} is continued by epoch {by}")
        if not run.handed_over and run.status is RunStatus.running:
            run.retries -= 1
            if run.retries < 0:
                self.wrong(f"run {run.run_id} has had more attempts than it may have")
        run.handed_over = True

    def _hand_over(self, args: Any, kwargs: Any, standing: Decision | None, wrote: bool) -> None:
        run = self.runs[args[0].run_id]
        if standing is not None and standing.status in OPEN and not run.handed_over:
            self.wrong(f"run {run.run_id} is reported as handed over, and is not")

    def _has_come(self, run: Run) -> None:
        """A delayed run takes its place in the line."""
        late = (self.wall() - (run.due or 0)) / 1e6
        if late < 0:
            self.wrong(f"run {run.run_id} joined the line {-late:.3f} s before its time")
        at_home = run.home is not None and run.home not in self.dead and run.home not in self.draining
        if self.quiet and at_home and late > 0.1:
            self.wrong(f"run {run.run_id} joined the line {late:.3f} s after its time")
        run.waiting, run.queued, run.due, run.number = True, True, None, next(self._places)

    def _in_time(self, run: Run, cause: str | None, *, waited: bool) -> None:
        """A time limit ends what has passed it, and nothing else."""
        now = self.now()
        if cause == "idle" and run.idle is not None and run.silence < run.idle - 0.001:
            self.wrong(f"run {run.run_id} was to be ended as silent {run.silence:.3f} s after a sign of life")
        if cause == "queue_timeout" and not waited:
            self.wrong(f"run {run.run_id} was ended for its waiting, and had its turn")
        if self.clock_jumped:
            return
        if cause == "timeout" and (run.timeout is None or now - run.started_at < run.timeout - 0.001):
            self.wrong(
                f"run {run.run_id} was ended after {now - run.started_at:.3f} s, its limit is {run.timeout}"
            )
        if cause == "queue_timeout" and (run.queue is None or now - run.queued_at < run.queue - 0.001):
            self.wrong(f"run {run.run_id} waited {now - run.queued_at:.3f} s, its limit is {run.queue}")
        late = 1.5 if run.waiting and run.home is None else 0.3  # a run without a home is found by a tick
        if self.quiet and (limit := self._limit(run)) is not None and now - limit > late:
            self.wrong(f"run {run.run_id} outlived its time limit by {now - limit:.3f} s")

    def _limit(self, run: Run) -> float | None:
        """When its time is over, as far as it is known from outside."""
        if run.waiting:
            return None if run.queue is None else run.queued_at + run.queue
        return None if run.timeout is None or not run.started_at else run.started_at + run.timeout

    def check_overdue(self, faults_ended_at: float) -> None:
        """After the end of all faults, the workers that are left end overdue runs."""
        for run in self.runs.values():
            limit = self._limit(run) if run.status in OPEN and not run.deleted else None
            if (
                limit is not None
                and self.now() - max(limit, faults_ended_at) > 20.0
                and not self.clock_jumped
            ):
                self.wrong(f"run {run.run_id} outlives its time limit")

    def _taken_over(self, run: Run, epoch: int) -> None:
        if run.home == epoch:
            return
        if run.home is not None and run.home not in self.dead:
            self.wrong(f"run {run.run_id} of epoch {run.home} was taken by epoch {epoch}")
        if not run.portable:
            self.wrong(f"run {run.run_id} was taken by epoch {epoch}, and is not portable")
        if epoch in self.draining:
            self.wrong(f"epoch {epoch} drains, and took over run {run.run_id}")

    def _took(self, run: Run, epoch: int, fence: int) -> None:
        if epoch in self.dead:
            self.wrong(f"dead epoch {epoch} took thread {run.thread_id} with run {run.run_id}")
        self._fence_grew(run, fence)
        if run.due is not None:
            self.wrong(f"run {run.run_id} took thread {run.thread_id} before its time")
        run.waiting = False
        run.taken_at = self.now()
        for other in self.runs.values():
            if other.thread_id != run.thread_id or other is run:
                continue
            if other.holds:
                self.wrong(f"run {run.run_id} took thread {run.thread_id} from {other.run_id}")
            if other.waiting and other.number < run.number:
                self.wrong(f"run {run.run_id} overtook {other.run_id} in the line of {run.thread_id}")

    def _fence_grew(self, run: Run, fence: int) -> None:
        if fence <= self.fences.get(run.thread_id, 0):
            self.wrong(f"fence {fence} of thread {run.thread_id} had been given before (run {run.run_id})")
        self.fences[run.thread_id] = max(fence, self.fences.get(run.thread_id, 0))

    # -- what each operation did beside the audit

    def _admit(self, args: Any, kwargs: Any, admission: Admission, wrote: bool) -> None:
        request: AdmissionRequest = args[0]
        if not wrote or admission.existing is not None:
            return
        self._know(request)
        run_id, new = request.run_id, request.spec
        replaced = {one.run_id for decision in admission.replaced for one in (decision, *decision.children)}
        if new.parent_run_id in replaced:
            self.runs[run_id].parent = None  # it replaces its own parent
        parent = self.runs.get(self.runs[run_id].parent or "")
        if parent is not None and parent.status not in OPEN and parent.status is not RunStatus.success:
            self.wrong(f"run {run_id} was admitted although its parent is {parent.status}")
        if new.delay_ms is not None:
            self.runs[run_id].due = self.wall() + new.delay_ms * 1000
        others = [run for run in self.in_flight(new.thread_id) if run.run_id != run_id]
        for run in others:
            if run.due is not None and run.due <= self.wall():
                self.wrong(f"run {run_id} was placed before {run.run_id}, whose time had come")
        waiting = sum(run.waiting or run.due is not None for run in others)
        if request.dispatched and (admission.holds or self.runs[run_id].home is not None):
            self.wrong(f"run {run_id} is dispatched, and belongs to a worker")
        at_once = new.delay_ms is None and not request.dispatched
        if not admission.holds and at_once and all(run.due is not None for run in others):
            self.wrong(f"run {run_id} is queued, and no run is before it")
        if new.multitask_strategy in ("interrupt", "rollback"):
            for run in others:
                if run.kind == "run" and run.status in OPEN:
                    self.wrong(f"run {run_id} was to replace {run.run_id}, which continues")
        elif waiting > self.most_waiting:
            self.wrong(f"{waiting + 1} runs wait on {new.thread_id}")
        elif new.multitask_strategy == "reject" and others:
            self.wrong(f"run {run_id} was to be refused over {others[0].run_id}")
        self._began(run_id, admission.started, wrote)

    def _insert(self, args: Any, kwargs: Any, admission: Admission, wrote: bool) -> None:
        if wrote and admission.existing is None:
            self._know(args[0])

    def _know(self, request: AdmissionRequest) -> None:
        run, new = self.runs[request.run_id], request.spec
        run.kind, run.portable, run.parent = new.kind, request.portable, new.parent_run_id
        run.retries = new.retries if request.portable else 0
        run.on_disconnect, run.queued_at = new.on_disconnect, self.now() + (new.delay_ms or 0) / 1000
        limits = (None if ms is None else ms / 1000 for ms in (new.timeout_ms, new.idle_timeout_ms))
        run.timeout, run.idle = limits
        run.queue = None if new.queue_timeout_ms is None else new.queue_timeout_ms / 1000

    def _register(self, args: Any, kwargs: Any, epoch: int, wrote: bool) -> None:
        self.beats[epoch] = self.now()

    def _drain(self, args: Any, kwargs: Any, handed: list[HandedOver], wrote: bool) -> None:
        if args[0] in self.dead:  # its peers take its runs
            return
        self.draining.add(args[0])
        for run in self.runs.values():
            if run.portable and (run.waiting or run.due is not None) and run.home == args[0]:
                self.wrong(f"epoch {args[0]} drains, and run {run.run_id} is still at home there")

    def _beat(self, args: Any, kwargs: Any, alive: bool, wrote: bool) -> None:
        if alive and args[0] in self.dead:
            self.wrong(f"dead epoch {args[0]} renewed its lease")
        self.beats[args[0]] = self.now()

    def _retire(self, args: Any, kwargs: Any, orphans: list[Orphan], wrote: bool) -> None:
        if args[0] not in self.dead:
            self.signed_off.add(args[0])
            self.dead[args[0]] = self.now()
        self._ended(orphans)

    def _fence_worker(self, args: Any, kwargs: Any, fenced: bool, wrote: bool) -> None:
        if not fenced:
            return
        epoch = args[0].epoch
        if epoch in self.dead:
            self.wrong(f"epoch {epoch} was declared dead twice")
        if self.now() - self.beats[epoch] < self.ttl and epoch not in self.killed | self.falsely:
            silent = self.now() - self.beats[epoch]
            self.wrong(f"epoch {epoch} was declared dead {silent:.1f} s after it renewed")
        self.dead[epoch] = self.now()

    def _sweep(self, args: Any, kwargs: Any, orphans: list[Orphan], wrote: bool) -> None:
        self._ended(orphans)

    def _ended(self, orphans: list[Orphan]) -> None:
        ended = {orphan.run_id for orphan in orphans if orphan.adopted is None}
        for orphan in orphans:
            run = self.runs[orphan.run_id]
            with_parent = run.parent in ended  # it was given to this worker before its parent ended
            if orphan.attempt and not orphan.decided and run.status not in OPEN and not with_parent:
                self.wrong(f"run {orphan.run_id} is {run.status}, and is to be continued")
            if orphan.adopted is None:
                if orphan.run_id in self.reported:
                    self.wrong(f"the end of run {orphan.run_id} was reported twice")
                self.reported.add(orphan.run_id)

    def _start(self, args: Any, kwargs: Any, started: Started | None, wrote: bool) -> None:
        self._began(args[0].run_id, started, wrote)

    def _began(self, run_id: str, started: Started | None, wrote: bool) -> None:
        if started is None or started.decision.status is not RunStatus.running:
            return
        run = self.runs[run_id]
        run.handed_over = False
        if wrote:
            run.started, run.before = True, self.values.get(run.thread_id)
            run.started_at = run.sign_at = self.now()
        if run.holds and run.started and started.values != self.values.get(run.thread_id):
            self.wrong(f"run {run.run_id} began with values {started.values!r}")

    def _save(self, args: Any, kwargs: Any, answer: None, wrote: bool) -> None:
        run = self.runs.get(args[0].run_id)
        if run is not None and run.status is not RunStatus.running:
            cancelled = run.status in (RunStatus.interrupted, RunStatus.timeout)
            if not (kwargs.get("last") and cancelled and run.holds):
                self.wrong(f"run {run.run_id} saved while it is {run.status}")
            if run.last_save not in (None, args[1]):
                self.wrong(f"run {run.run_id} saved twice after its cancel")
            run.last_save = args[1]
        if (
            run is not None
            and isinstance(args[1], dict)
            and "steps" in args[1]
            and args[1]["by"] == run.run_id
        ):
            steps = args[1]["steps"]
            if steps != list(range(len(steps))) or len(steps) not in (run.steps, run.steps + 1):
                self.wrong(f"run {run.run_id} has saved {run.steps} steps, and then {steps}")
            run.steps = len(steps)
        self.values[args[0].thread_id] = args[1]

    def _restore(self, args: Any, kwargs: Any, values: Any, wrote: bool) -> None:
        run = self.runs.get(args[0].run_id)
        if run is not None and run.started:
            if values != run.before:
                self.wrong(f"rollback of {run.run_id} answered {values!r}, not {run.before!r}")
            self.values[run.thread_id] = run.before

    def _readopt(self, args: Any, kwargs: Any, again: Ownership | None, wrote: bool) -> None:
        run = self.runs.get(args[0].run_id)
        if run is not None and again is not None:
            run.retried.add(again.fence)
            if run.adoptions + len(run.retried) > 3:
                self.wrong(f"rollback of {run.run_id} began {run.adoptions} + {len(run.retried)} times anew")

    def _finish(self, args: Any, kwargs: Any, finish: Finish, wrote: bool) -> None:
        outcome: Outcome = args[1]
        decision = finish.decision
        if wrote and decision is not None and decision.won and decision.status is RunStatus.success:
            run = self.runs[args[0].run_id]
            run.result = outcome.result
            if args[0].fence and outcome.values is not None:
                self.values[run.thread_id] = outcome.values
        elif (
            wrote
            and decision is not None
            and decision.status in (RunStatus.interrupted, RunStatus.timeout)
            and decision.action == "interrupt"
            and outcome.status is RunStatus.success
            and args[0].fence
            and outcome.values is not None
        ):
            self.values[args[0].thread_id] = outcome.values
        if finish.claimed is not None:
            self._began(finish.claimed.run_id, finish.claimed.started, wrote)

    def _delete_thread(self, args: Any, kwargs: Any, answer: None, wrote: bool) -> None:
        if not wrote:
            return
        self.values.pop(args[0].thread_id, None)
        self.removed[args[0].thread_id] = args[0].fence

    def to_be_ended(self, run_id: str, cause: object, paused_since: Callable[[float, float], float]) -> None:
        """Its worker is about to write the end; until that is written, it may give another sign of life. Of
        each pause, at most a part of the limit counts."""
        run = self.runs.get(run_id)
        if cause == "idle" and run is not None and run.idle is not None:
            paused = paused_since(run.sign_at, run.idle / PARTS)
            run.silence = max(run.silence, self.now() - run.sign_at - paused)

    def _expire_threads(self, args: Any, kwargs: Any, removed: list[RemovedThread], wrote: bool) -> None:
        for thread in removed:
            self.values.pop(thread.thread_id, None)
            self.removed[thread.thread_id] = self.fences.get(thread.thread_id, 0)

    # -- what tasks do

    def sign(self, run_id: str) -> None:
        """Its code gives a sign of life."""
        if (run := self.runs.get(run_id)) is not None:
            run.sign_at = self.now()

    def step(self, run_id: str, epoch: int, fence: int, *, guarded: bool) -> None:
        """A task of a run does something; `guarded`: right after `ctx.check()` let it pass."""
        run = self.runs.get(run_id)
        if run is None or not fence:
            return
        dead, stale = epoch in self.dead, run.fence != fence or run.epoch != epoch
        if guarded and not self._unaware(epoch) and (dead or stale or not run.holds):
            why = "its epoch is dead" if dead else "its fence is stale" if stale else "its thread is free"
            self.wrong(f"run {run_id} passed its check although {why}")
        if not run.holds and not (dead or stale or run.forced):
            self.wrong(f"thread {run.thread_id} was freed while the task of run {run_id} was at work")

    def death_known(self, epoch: int) -> None:
        """Called when the answer to a heartbeat states that the epoch is dead."""
        self.death_known_at.setdefault(epoch, self.now())

    def _unaware(self, epoch: int) -> bool:
        """A live worker that was declared dead does not know it before its next heartbeat, at most until its
        lease expires. Its writes are refused all the same."""
        if epoch not in self.falsely:
            return False
        known_at = self.death_known_at.get(epoch)
        return self.now() <= (self.dead[epoch] + self.term if known_at is None else known_at)

    # -- the answers to callers

    def cancelled(self, run_id: str, *, answer: bool, waited: bool) -> None:
        run = self.runs.get(run_id)
        if run is None or run.deleted:
            return
        if answer:
            run.acknowledged = True
            if run.status is not RunStatus.interrupted:
                self.wrong(f"cancel of {run_id} was acknowledged while it is {run.status}")
            if waited and run.settled_at is None and run.holds:
                self.wrong(f"cancel(wait) of {run_id} returned before it settled")
        elif run.status in OPEN or run.status is RunStatus.interrupted:
            self.wrong(f"cancel of {run_id} answered False while it is {run.status}")

    def waited(self, run_id: str, status: RunStatus | None, result: Any) -> None:
        run = self.runs.get(run_id)
        if run is None or run.deleted:
            return
        if run.in_flight and not (run.abandoned or run.put_back):
            self.wrong(f"wait for {run_id} returned while it is in flight")
        if status is None:
            expected = run.result if run.status is RunStatus.success else None
            failed = run.status in (RunStatus.error, RunStatus.timeout)
            if (failed or result != expected) and not run.put_back:
                self.wrong(f"wait for {run_id} ({run.status}) returned {result!r}, not {expected!r}")
        elif run.status is not status and not run.put_back:
            self.wrong(f"wait for {run_id} returned {status}, it is {run.status}")

    def followed(self, run_id: str, status: RunStatus) -> None:
        run = self.runs.get(run_id)
        if run is None or run.deleted or run.put_back:
            return
        if run.in_flight or run.status is not status:
            self.wrong(f"a follower of {run_id} received the end {status}; it is {run.status}")

    def refused(self, thread_id: str, holder: str | None, called_at: float) -> None:
        run = self.runs.get(holder or "")
        if run is None or run.deleted:
            return
        if run.thread_id != thread_id or (run.settled_at is not None and run.settled_at < called_at):
            self.wrong(f"thread {thread_id} was refused over run {holder}, which had settled before")

    def cancel_delivered(self, run_id: str, *, unwritten: bool) -> None:
        """Called when the task of a run receives its cancel."""
        run = self.runs.get(run_id)
        if run is None:
            return
        run.cancel_delivered_at = self.now()
        if run.status in OPEN and not unwritten and run.epoch not in self.dead:
            self.wrong(f"run {run_id} received a cancel that is not written")

    def not_durable(self, run_id: str, by: Stopper) -> None:
        if (run := self.runs.get(run_id)) is not None:
            run.stopped_by = by

    def admitted(self, run_id: str, key: str | None) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run.handed_out = True
        if run is None:
            self.wrong(f"run {run_id} was handed out and is not in the store")
        elif key is not None:
            first = self.keys.setdefault(key, run_id)
            if self.runs[first].deleted or self.runs[first].put_back:  # the key is free again
                self.keys[key] = run_id
            elif first != run_id and not run.deleted:
                self.wrong(f"key {key} was used for {first} and {run_id}")

    def in_flight(self, thread_id: str) -> list[Run]:
        return [run for run in self.runs.values() if run.thread_id == thread_id and run.in_flight]

    def holders(self) -> set[int | None]:
        """Epochs that hold a thread."""
        return {run.epoch for run in self.runs.values() if run.holds and not run.deleted}

    # -- in the end

    def final(self, cx: sqlite3.Connection) -> None:
        for row in cx.execute(
            "SELECT run_id, status, holds_thread, settled_at, cancel_action, started_at, rollback_state,"
            " fence, error FROM runs"
        ):
            run_id, status, holds, settled, action, started, undone, fence, error = row
            run = self.runs[run_id]
            if run.portable and (run.waiting or run.due) and (run.home is None or run.home in self.dead):
                continue  # all workers have left: the next one takes it over
            if self._may_continue(run) and run.epoch in self.dead and not run.put_back:
                continue  # so it does this one
            if (
                status in OPEN or holds or (settled is None and fence)
            ):  # beside the slot: the next sweep settles it
                self.wrong(
                    f"run {run_id} is not over: {status}, holds={holds}, settled={settled is not None}"
                )
            if run.acknowledged and status != RunStatus.interrupted:
                self.wrong(f"run {run_id} was cancelled, and is {status}")
            kept = run.stopped_by is not None and run.stopped_by.died is None
            if kept and run.cancel_delivered_at is not None and status == RunStatus.success:
                self.wrong(f"the task of {run_id} was stopped for a cancel, and the run is {status}")
            if (
                run.handed_out
                and not run.abandoned
                and (error or "").startswith("Its worker has ended or drains")
            ):
                self.wrong(f"run {run_id} was ended by its own worker as another worker's")
            if action == "rollback" and started is not None and fence and status == RunStatus.interrupted:
                if undone not in ("done", "failed"):
                    self.wrong(f"run {run_id} was to be rolled back, and was not: {undone!r}")
                # Three attempts: of its owner, or of those who adopted it, or both.
                if undone == "failed" and run.adoptions + len(run.retried) < (2 if run.retried else 3):
                    self.wrong(f"rollback of {run_id} failed too soon: {run.adoptions} + {len(run.retried)}")
        for thread_id, values in cx.execute('SELECT thread_id, "values" FROM threads'):
            stored = None if values is None else json.loads(values)
            if stored != self.values.get(thread_id):
                self.wrong(
                    f"thread {thread_id} holds {stored!r}; accepted was {self.values.get(thread_id)!r}"
                )
