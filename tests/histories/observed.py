"""Properties that the workers' histories prove, together with the audit if there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stores.states import CancelAction
from tests.histories.audit import Audit
from tests.histories.audited import overtaken
from tests.histories.calls import EXCUSING
from tests.histories.findings import Finding
from tests.histories.lines import Line

TERMINAL = frozenset({"success", "error", "timeout", "interrupted"})
OWNERS_CALLS = frozenset({"save", "finish"})
LEASED_CALLS = OWNERS_CALLS | {"emit"}
"""Refused after the lease has ended. `emit` is not checked for stale fences: an event log that lost its
memory accepts an event with an old fence."""


@dataclass(frozen=True)
class Task:
    """A run's code on one worker, from its first line to its last."""

    began: Line
    last: Line
    stopped: Line | None

    @property
    def fence(self) -> int:
        return self.began.fence or 0


def of_history(lines: Sequence[Line], audit: Audit | None) -> Iterator[Finding]:
    tasks = tasks_of(lines)
    excused = _Excused(lines, audit)
    yield from acknowledged_cancels_are_kept(lines, audit)
    yield from tasks_never_overlap(tasks, excused)
    yield from fences_grow(tasks, excused)
    yield from no_write_of_a_dead_worker(lines)
    yield from no_write_with_a_stale_fence(lines)
    yield from one_run_per_key(lines)
    yield from views_never_go_back(lines)
    yield from ticks_do_not_grow(lines)
    if audit is not None:
        yield from rollbacks_restore(tasks, audit, lines)


class _Excused:
    """Tasks that may overlap the next one, because the audit shows their owner as dead or fenced. Without an
    audit, every worker that a fault affected counts as dead."""

    def __init__(self, lines: Sequence[Line], audit: Audit | None) -> None:
        self._epochs, self._runs = overtaken(audit) if audit else (set[int](), set[str]())
        self._workers = set[str]()
        if audit is None:
            faults = [line for line in lines if line.kind == "fault"]
            self._workers = {line.args.get("worker", "*") for line in faults if line.what in EXCUSING}
            self._runs = {line.run for line in faults if line.what == "deaf" and line.run}

    def __contains__(self, task: Task) -> bool:
        line = task.began
        known = line.epoch in self._epochs or line.run in self._runs
        return known or not self._workers.isdisjoint({"*", line.worker})


def tasks_of(lines: Sequence[Line]) -> dict[str, list[Task]]:
    """Returns the tasks of each thread, in the order in which they began."""
    parts: dict[tuple[str, str, int | None], list[Line]] = defaultdict(list)
    for line in lines:
        if line.kind == "step" and line.run is not None:
            parts[line.run, line.worker, line.fence].append(line)
    tasks: dict[str, list[Task]] = defaultdict(list)
    for steps in parts.values():
        steps.sort(key=lambda line: line.at)
        stopped = next((line for line in steps if line.what == "stopped"), None)
        if steps[0].thread is not None:
            tasks[steps[0].thread].append(Task(steps[0], steps[-1], stopped))
    for of_thread in tasks.values():
        of_thread.sort(key=lambda task: task.began.at)
    return tasks


def tasks_never_overlap(tasks: dict[str, list[Task]], excused: _Excused) -> Iterator[Finding]:
    for of_thread in tasks.values():
        active: list[Task] = []
        for task in of_thread:
            active = [other for other in active if other.last.at > task.began.at]
            for other in active:
                older = min(task, other, key=lambda one: one.fence)
                if older not in excused:
                    over = (min(other.last.at, task.last.at) - task.began.at) / 1e3
                    what = (
                        f"run {other.began.run} took a step {over:g} us after run {task.began.run} had begun,"
                        " and its owner was neither dead nor fenced"
                    )
                    yield _finding("tasks never overlap", what, other.began, task.began, other.last)
            active.append(task)


def fences_grow(tasks: dict[str, list[Task]], excused: _Excused) -> Iterator[Finding]:
    for of_thread in tasks.values():
        orderly = [task for task in of_thread if task not in excused]
        for one, two in pairwise(orderly):
            if two.fence <= one.fence:
                what = f"fence {two.fence} began after fence {one.fence}"
                yield _finding("fences only grow", what, one.began, two.began)


def acknowledged_cancels_are_kept(lines: Sequence[Line], audit: Audit | None) -> Iterator[Finding]:
    cancelled = {
        line.run: line
        for line in lines
        if line.kind == "answer"
        and line.what == "cancel"
        and line.outcome == "ok"
        and line.args.get("result")
    }
    for row in audit.runs if audit else ():
        if row.run_id in cancelled and row.status != "interrupted":
            what = f"its cancel was acknowledged, and it ended in {row.status}"
            yield _finding("an acknowledged cancel is kept", what, cancelled[row.run_id])
    for line in lines:
        seen = line.args.get("status") if line.kind == "answer" and line.what in ("wait", "get") else None
        if line.run in cancelled and seen in TERMINAL - {"interrupted"}:
            what = f"its cancel was acknowledged, and it was seen in {seen}"
            yield _finding("an acknowledged cancel is kept", what, cancelled[line.run], line)


def no_write_of_a_dead_worker(lines: Sequence[Line]) -> Iterator[Finding]:
    """After a `declared_dead` line no new call of that epoch is accepted."""
    dead_since: dict[int, Line] = {}
    for line in lines:
        if line.kind == "fault" and line.what == "declared_dead" and line.args.get("epoch") is not None:
            dead_since.setdefault(line.args["epoch"], line)
    for call, answer in _accepted(lines, LEASED_CALLS):
        death = dead_since.get(call.epoch) if call.epoch is not None else None
        if death is not None and call.at > death.at:
            what = f"epoch {call.epoch} was declared dead, and yet its '{call.what}' was accepted"
            yield _finding("no write of a dead worker", what, death, call, answer)


def no_write_with_a_stale_fence(lines: Sequence[Line]) -> Iterator[Finding]:
    """After a task has begun with a greater fence, no call with a lower fence is accepted."""
    newest: dict[str, tuple[int, Line]] = {}
    accepted = {call.call: answer for call, answer in _accepted(lines, OWNERS_CALLS)}
    for line in lines:
        if line.thread is None or line.fence is None:
            continue
        fence, newer = newest.get(line.thread, (0, line))
        if line.kind == "step" and line.what == "began" and line.fence > fence:
            newest[line.thread] = (line.fence, line)
        elif line.kind == "call" and line.call in accepted and line.fence < fence:
            what = f"'{line.what}' with fence {line.fence} was accepted after {fence} had begun"
            yield _finding("stale fences are refused", what, newer, line, accepted[line.call])


def _accepted(lines: Sequence[Line], calls: frozenset[str]) -> Iterator[tuple[Line, Line]]:
    answers = {line.call: line for line in lines if line.kind == "answer" and line.outcome == "ok"}
    for line in lines:
        if line.kind == "call" and line.what in calls and line.call in answers:
            yield line, answers[line.call]


def one_run_per_key(lines: Sequence[Line]) -> Iterator[Finding]:
    calls = {line.call: line for line in lines if line.kind == "call" and line.what == "admit"}
    first: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        call = calls.get(line.call) if line.kind == "answer" and line.outcome == "ok" else None
        if call is None or call.args.get("key") is None:
            continue
        other = first.setdefault((call.thread, call.args.get("user"), call.args["key"]), line)
        if other.run != line.run:
            what = f"key {call.args['key']!r} was answered with the runs {other.run} and {line.run}"
            yield _finding("one run per idempotency key", what, other, line)


def views_never_go_back(lines: Sequence[Line]) -> Iterator[Finding]:
    """A worker's own record may be behind the store, but a terminal status that it has shown does not change.
    Compares each `get` with those that were answered before it was called."""
    calls = {line.call: line for line in lines if line.kind == "call"}
    shown: dict[tuple[str, str | None], Line] = {}
    for line in lines:
        if line.kind != "answer" or line.what != "get" or line.outcome != "ok":
            continue
        before, call = shown.get((line.worker, line.run)), calls.get(line.call)
        if before is not None and call is not None and before.at < call.at:
            if line.args.get("status") != before.args["status"]:
                what = f"it was shown as {before.args['status']}, then as {line.args.get('status')}"
                yield _finding("a terminal status never changes", what, before, line)
        elif line.args.get("status") in TERMINAL:
            shown.setdefault((line.worker, line.run), line)


def ticks_do_not_grow(lines: Sequence[Line], slack: float = 1.0) -> Iterator[Finding]:
    """On each worker, reads per tick with the most runs exceed those with the fewest by at most `slack`."""
    samples: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.kind == "sample" and line.what == "tick":
            samples[line.worker].append(line)
    for of_worker in samples.values():
        rates = [
            (one.args["runs"], (two.args["reads"] - one.args["reads"]) / ticks, two)
            for one, two in pairwise(of_worker)
            if one.args["runs"] == two.args["runs"] and (ticks := two.args["ticks"] - one.args["ticks"]) > 0
        ]
        if rates:
            few, many = min(rates, key=lambda rate: rate[0]), max(rates, key=lambda rate: rate[0])
            if many[0] > few[0] and many[1] > few[1] + slack:
                what = f"{few[1]:g} reads a tick with {few[0]} runs, {many[1]:g} with {many[0]}"
                yield _finding("ticks do not grow with runs", what, few[2], many[2])


def rollbacks_restore(tasks: dict[str, list[Task]], audit: Audit, lines: Sequence[Line]) -> Iterator[Finding]:
    """After a rollback, the next run starts with the values with which the rolled back run started."""
    rows = {row.run_id: row for row in audit.runs}
    final = {row.thread_id: row.values for row in audit.threads}
    updated = [line for line in lines if line.kind == "call" and line.what == "update"]
    for thread, of_thread in tasks.items():
        orderly = sorted(of_thread, key=lambda task: task.fence)
        for at, task in enumerate(orderly):
            row = rows.get(task.began.run or "")
            rolled_back = row is not None and row.cancel_action is CancelAction.rollback
            if row is None or not rolled_back or not row.settled or row.rollback_state == "failed":
                continue
            after = orderly[at + 1] if at + 1 < len(orderly) else None
            until = after.began.at if after else None
            if any(
                line.thread == thread and line.at > task.began.at and (until is None or line.at < until)
                for line in updated
            ):
                continue  # an update has changed the values since
            now = after.began.args.get("values") if after else final.get(thread)
            if now != task.began.args.get("values"):
                what = f"it started with {task.began.args.get('values')!r} and left {now!r}"
                evidence = [task.began] + ([after.began] if after else [])
                yield _finding("rollbacks restore", what, *evidence)


def _finding(name: str, what: str, *lines: Line) -> Finding:
    texts = dict.fromkeys(str(line) for line in sorted(lines, key=lambda line: line.at))
    return Finding(name, what, tuple(texts), lines[0].thread, lines[0].run)
