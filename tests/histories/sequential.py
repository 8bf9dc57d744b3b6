"""The sequential model of a thread: operations take effect one at a time.

Pure functions over immutable states. `after(state, op)` returns every state in which the thread may be
once `op` has taken effect with its answer; an empty result means that `op` cannot have happened in `state`.
The coordinator's own steps (claim, start, finish, settle, end orphans) happen between two calls, at any
moment at which they are possible: `drift`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from tests.support import strategies

OPEN = frozenset({"pending", "running"})
ALL = "*"


class Run(NamedTuple):
    run: str
    worker: str
    status: str = "pending"
    holds: bool = False
    settled: bool = False
    action: str | None = None
    before: str | None = None
    """The thread's values when the run started, which a rollback restores. None = not started."""
    begun: bool = False
    """The history has a step of its code."""
    stopped: str | None = None
    """The outcome that its task reported. None = the task has not stopped."""
    leaves: str | None = None
    """The thread's values after the run, if it ends in success."""
    volatile: bool = False
    """The coordinator may decide it: it has a deadline, or its admission is uncertain."""


class Thread(NamedTuple):
    """`runs` are in the order of admission. `excused`: workers whose runs other workers may end, and runs
    that may be settled before their task has stopped."""

    runs: tuple[Run, ...] = ()
    values: str = "null"
    fence: int = 0
    keys: tuple[tuple[str, str], ...] = ()
    excused: frozenset[str] = frozenset()

    def find(self, run: str | None) -> Run | None:
        return next((known for known in self.runs if known.run == run), None)

    @property
    def holder(self) -> Run | None:
        return next((run for run in self.runs if run.holds), None)

    @property
    def in_flight(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if not run.settled)

    def with_run(self, run: Run, **change: Any) -> Thread:
        runs = tuple(run if old.run == run.run else old for old in self.runs)
        return self._replace(runs=runs, **change)

    def is_excused(self, *names: str) -> bool:
        return ALL in self.excused or not self.excused.isdisjoint(names)


@dataclass(frozen=True, eq=False)
class Op:
    """A call with its answer. `end` None = without an answer: it may take effect at any time, or never."""

    what: str
    worker: str
    begin: int
    end: int | None
    outcome: str = "ok"
    error: str | None = None
    run: str | None = None
    fence: int | None = None
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    candidates: tuple[str, ...] = ()
    """Run ids that an admission without an answer may have got."""
    lines: tuple[str, ...] = ()


def anything(_state: Thread) -> bool:
    return True


def after(state: Thread, op: Op, possible: Callable[[Thread], bool] = anything) -> tuple[Thread, ...]:
    """Returns the states after `op`, except those to which another of them may still drift: the coordinator's
    own steps are not taken before a call needs them. States that are not `possible` are left out."""
    apply = _APPLY[op.what]
    states = dict.fromkeys(new for old in reachable(state) for new in apply(old, op) if possible(new))
    least: list[Thread] = []
    for new in states:
        if not any(new in reachable(other) for other in least):
            least.append(new)
    return tuple(least)


# -- the coordinator's own steps


@lru_cache(maxsize=200_000)
def reachable(state: Thread) -> tuple[Thread, ...]:
    """Returns the state and every state to which it may drift."""
    states = {state: None}
    todo = [state]
    while todo:
        for new in drift(todo.pop()):
            if new not in states:
                states[new] = None
                todo.append(new)
    return tuple(states)


def drift(state: Thread) -> Iterator[Thread]:
    holder = state.holder
    if holder is None:
        head = next((run for run in state.in_flight if run.status == "pending"), None)
        if head is not None:
            yield state.with_run(head._replace(holds=True))
    elif holder.status == "pending":
        yield state.with_run(holder._replace(status="running", before=state.values))
    if holder is not None:
        yield from _end_of(state, holder)
    for run in state.in_flight:
        if run.status in OPEN:
            yield from _decided_by_the_system(state, run)


def _end_of(state: Thread, holder: Run) -> Iterator[Thread]:
    excused = state.is_excused(holder.worker, holder.run)
    if holder.status not in OPEN:
        if holder.stopped is not None or excused or not holder.begun:
            if _returned(holder):
                yield _settle(state._replace(values=holder.leaves or state.values), holder)
            if excused or not _returned(holder):
                yield _settle(state, holder)
            if excused and holder.action == "rollback":  # given up after the last attempt
                yield _settle(state, holder._replace(action=None))
    elif holder.stopped is not None:
        status = {"success": "success", "error": "error"}.get(holder.stopped, "interrupted")
        values = holder.leaves if status == "success" and holder.leaves is not None else state.values
        done = holder._replace(status=status, holds=False, settled=True)
        yield state.with_run(done, values=values)
        if excused:  # its worker decided the run, and died before it freed the thread
            yield state.with_run(holder._replace(status=status))


def _returned(run: Run) -> bool:
    """Whether the code of a stopping run returned values: they are its last save."""
    return _may_save_last(run) and run.stopped == "success" and run.leaves is not None


def _may_save_last(run: Run) -> bool:
    return strategies.keeps_last_save(run.status, run.action)


def _decided_by_the_system(state: Thread, run: Run) -> Iterator[Thread]:
    if state.is_excused(run.worker):
        for status in ("error", "interrupted"):
            yield _settle(state, run._replace(status=status))
    if run.volatile:
        for status in ("timeout", "interrupted"):
            yield decide(state, run, status, "interrupt")


def _settle(state: Thread, run: Run) -> Thread:
    undo = run.before if run.action == "rollback" and run.holds else None
    return state.with_run(
        run._replace(holds=False, settled=True), values=state.values if undo is None else undo
    )


def decide(state: Thread, run: Run, status: str, action: str) -> Thread:
    """A queued run settles at once. A holder keeps its thread until its task has stopped."""
    if run.status not in OPEN:
        return state
    return state.with_run(run._replace(status=status, action=action, settled=not run.holds))


# -- operations of callers and tasks


def _admit(state: Thread, op: Op) -> Iterator[Thread]:
    if op.outcome == "refused":
        wanted = op.answer.get("active_run")
        named = wanted is None or any(run.run == wanted for run in state.in_flight)
        if op.error != "ConflictError" or (named and _placement(state, op).refused):
            yield state
        return
    key = key_of(op)
    known = dict(state.keys).get(key) if key is not None else None
    names = (op.run,) if op.run is not None else op.candidates
    for name in names:
        if known is not None:
            if name == known or op.run is None:
                yield state
        elif state.find(name) is None:
            yield from _place(state, op, name, key)


def _place(state: Thread, op: Op, name: str, key: str | None) -> Iterator[Thread]:
    placed = _placement(state, op)
    if placed.refused:
        return
    if placed.action is not None:
        for run in state.in_flight:
            state = decide(state, run, "interrupted", placed.action)
    volatile = bool(op.args.get("expires")) or op.end is None
    new = Run(name, op.worker, holds=placed.holds, volatile=volatile)
    keys = state.keys if key is None else (*state.keys, (key, name))
    yield state._replace(runs=(*state.runs, new), keys=keys)


def _placement(state: Thread, op: Op) -> strategies.Placement:
    in_flight = (strategies.InFlight(run.holds) for run in state.in_flight)
    return strategies.placement(op.args.get("strategy", "reject"), in_flight)


def key_of(op: Op) -> str | None:
    key = op.args.get("key")
    return None if key is None else f"{op.args.get('user') or ''}/{key}"


def _cancel(state: Thread, op: Op) -> Iterator[Thread]:
    run = state.find(op.run)
    if op.outcome == "refused":
        yield state
    elif op.end is not None and op.answer.get("result") is False:
        if run is None or run.status not in (*OPEN, "interrupted"):
            yield state
    elif run is not None and run.status in (*OPEN, "interrupted"):
        yield decide(state, run, "interrupted", op.args.get("action", "interrupt"))


def _settled(state: Thread, op: Op) -> Iterator[Thread]:
    """The state that `wait` and `cancel(wait=)` guarantee when they return."""
    run = state.find(op.run)
    if run is not None and run.settled and op.answer.get("status") in (None, run.status):
        yield state


def _get(state: Thread, op: Op) -> Iterator[Thread]:
    run = state.find(op.run)
    if op.answer.get("status") == (None if run is None else run.status):
        yield state


def _save(state: Thread, op: Op) -> Iterator[Thread]:
    run = state.find(op.run)
    if op.outcome == "refused":
        yield state
    elif run is not None and run.holds and (run.status == "running" or _may_save_last(run)):
        yield state._replace(values=op.args["values"])


def _update(state: Thread, op: Op) -> Iterator[Thread]:
    if op.outcome == "refused":
        if state.in_flight or op.error != "ConflictError":
            yield state
    elif not state.in_flight:
        yield state._replace(values=op.args["values"])


def _finish(state: Thread, op: Op) -> Iterator[Thread]:
    """A finish that a caller made itself. The finish of a launched run is `stopped` and drift."""
    run = state.find(op.run)
    if op.outcome == "refused":
        yield state
        return
    if run is None or not (run.holds or run.settled):
        return
    stands = op.answer.get("status")
    wanted = op.args.get("outcome", "success")
    if run.settled:  # repeated after an unknown outcome
        if stands in (None, run.status):
            yield state
        return
    status = wanted if run.status in OPEN else run.status
    if stands in (None, status):
        leaves = op.args.get("values")
        kept = (run.status in OPEN and status == "success") or (_may_save_last(run) and wanted == "success")
        values = leaves if kept and leaves is not None else state.values
        yield _settle(state._replace(values=values), run._replace(status=status))


def _began(state: Thread, op: Op) -> Iterator[Thread]:
    run = state.find(op.run)
    if run is None:
        return
    if run.holds and run.before is not None:
        fence = op.fence or 0
        if fence > state.fence and op.args.get("values", run.before) == run.before:
            yield state.with_run(run._replace(worker=op.worker, begun=True), fence=fence)
    elif run.settled and state.is_excused(op.worker, run.worker, run.run):  # a zombie: it writes nothing
        yield state


def _stopped(state: Thread, op: Op) -> Iterator[Thread]:
    run = state.find(op.run)
    if run is None:
        return
    if not run.settled:
        outcome = op.args.get("outcome", "success")
        yield state.with_run(run._replace(stopped=outcome, leaves=op.args.get("values")))
    elif state.is_excused(run.worker, run.run):
        yield state


def _excuse(state: Thread, op: Op) -> Iterator[Thread]:
    yield state._replace(excused=state.excused | {op.args["who"]})


_APPLY = {
    "admit": _admit,
    "cancel": _cancel,
    "wait": _settled,
    "get": _get,
    "save": _save,
    "update": _update,
    "finish": _finish,
    "began": _began,
    "stopped": _stopped,
    "excuse": _excuse,
}
