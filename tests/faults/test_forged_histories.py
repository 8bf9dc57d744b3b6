"""A checker that accepts everything proves nothing: each forgery is a real history with one lie in it.

The history is what two workers recorded of themselves on a SQLite store (`tests.support.recorded`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stores.rows import RunRow, Transition
from stores.states import Cause, RunStatus
from tests.histories import Audit, Line, Report, check, in_order
from tests.support.recorded import record_everything

MICROSECOND = 1000


@dataclass
class History:
    lines: list[Line]
    audit: Audit

    def check(self) -> Report:
        return check(self.lines, self.audit)

    def runs(self, thread: str) -> list[str]:
        """In the order of their admission."""
        answers = self.all("answer", "admit", thread=thread, outcome="ok")
        return list(dict.fromkeys(line.run for line in answers if line.run))

    def all(self, kind: str, what: str, **fields: Any) -> list[Line]:
        return [
            line
            for line in in_order(self.lines)
            if (line.kind, line.what) == (kind, what)
            and all(getattr(line, name) == value for name, value in fields.items())
        ]

    def one(self, kind: str, what: str, **fields: Any) -> Line:
        return self.all(kind, what, **fields)[0]

    def change(self, line: Line, **fields: Any) -> None:
        at = next(at for at, other in enumerate(self.lines) if other is line)
        self.lines[at] = replace(line, **fields)

    def change_args(self, line: Line, **args: Any) -> None:
        self.change(line, args={**line.args, **args})

    def add(self, *lines: Line) -> None:
        self.lines.extend(lines)

    def row(self, run: str) -> RunRow:
        return next(row for row in self.audit.runs if row.run_id == run)

    def change_row(self, run: str, **fields: Any) -> None:
        rows = [replace(row, **fields) if row.run_id == run else row for row in self.audit.runs]
        self.audit = replace(self.audit, runs=tuple(rows))

    def step(self, run: str, what: str) -> Transition:
        return next(t for t in self.audit.transitions if t.run_id == run and t.what == what)

    def change_step(self, step: Transition, **fields: Any) -> None:
        steps = [replace(t, **fields) if t is step else t for t in self.audit.transitions]
        self.audit = replace(self.audit, transitions=tuple(sorted(steps, key=lambda t: t.id)))

    def add_step(self, *steps: Transition) -> None:
        self.audit = replace(self.audit, transitions=(*self.audit.transitions, *steps))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sequence[Line], Audit]:
    folder: Path = tmp_path_factory.mktemp("recorded")
    return asyncio.run(record_everything(folder))


@pytest.fixture
def history(recorded: tuple[Sequence[Line], Audit]) -> History:
    return History(list(recorded[0]), recorded[1])


Forgery = Callable[[History], None]
FORGERIES: dict[str, tuple[str, Forgery]] = {}


def forgery(expected: str) -> Callable[[Forgery], Forgery]:
    def add(forge: Forgery) -> Forgery:
        assert forge.__name__ not in FORGERIES
        FORGERIES[forge.__name__] = (expected, forge)
        return forge

    return add


# -- one run at a time


@forgery("tasks never overlap")
def two_tasks_overlap_by_a_microsecond(history: History) -> None:
    second = history.runs("interrupted")[1]
    began = history.one("step", "began", run=second)
    last = history.one("step", "stopped", thread="interrupted")
    history.change(last, at=began.at + MICROSECOND)


@forgery("tasks never overlap")
def a_stray_step_after_the_next_one_began(history: History) -> None:
    first, second = history.runs("interrupted")[:2]
    stopped, began = history.one("step", "stopped", run=first), history.one("step", "began", run=second)
    history.add(replace(stopped, what="step", at=began.at + 1, args={}))


@forgery("holding never overlaps")
def two_rows_hold_the_thread(history: History) -> None:
    second = history.runs("interrupted")[1]
    claimed = history.step(second, "claimed")
    settled = next(
        t
        for t in history.audit.transitions
        if t.thread_id == "interrupted" and t.what in ("finished", "settled")
    )
    history.change_step(claimed, id=settled.id)
    history.change_step(settled, id=claimed.id)


@forgery("linearizable")
def a_reject_that_succeeded_on_a_busy_thread(history: History) -> None:
    refused = history.one("answer", "admit", thread="rejected", outcome="refused")
    history.change(refused, outcome="ok", error=None, run="smuggled", args={})


@forgery("linearizable")
def a_conflict_on_a_free_thread(history: History) -> None:
    run = history.runs("rolled-back")[-1]
    answer = history.one("answer", "admit", run=run)
    history.lines = [line for line in history.lines if line.run != run or line is answer]
    history.change(answer, outcome="refused", error="ConflictError", run=None, args={})


@forgery("linearizable")
def a_conflict_that_names_a_stranger(history: History) -> None:
    refused = history.one("answer", "admit", thread="rejected", outcome="refused")
    history.change_args(refused, active_run="stranger")


@forgery("linearizable")
def a_run_began_twice(history: History) -> None:
    began = history.one("step", "began", thread="rejected")
    history.add(replace(began, at=began.at + 1))


# -- one decision


@forgery("an acknowledged cancel is kept")
def a_success_after_an_acknowledged_cancel(history: History) -> None:
    run = history.runs("rolled-back")[1]
    history.change_row(run, status=RunStatus.success)


@forgery("an acknowledged cancel is kept")
def a_success_seen_after_an_acknowledged_cancel(history: History) -> None:
    seen = history.one("answer", "get", run=history.runs("rolled-back")[1])
    history.change_args(seen, status="success")


@forgery("one decision per run")
def a_decision_that_changed(history: History) -> None:
    settled = history.step(history.runs("rolled-back")[1], "settled")
    history.change_step(settled, to_status=RunStatus.success)


@forgery("one decision per run")
def a_run_that_came_back(history: History) -> None:
    finished = history.step(history.runs("rejected")[0], "finished")
    back = replace(finished, id=10_000, from_status=finished.to_status, to_status=RunStatus.running)
    history.add_step(back)


@forgery("one decision per run")
def running_became_pending(history: History) -> None:
    started = history.step(history.runs("rejected")[0], "started")
    history.change_step(started, from_status=RunStatus.running, to_status=RunStatus.pending)


@forgery("linearizable")
def a_cancel_that_found_nothing_to_cancel(history: History) -> None:
    answer = history.one("answer", "cancel", thread="rolled-back")
    history.change_args(answer, result=False)


@forgery("linearizable")
def a_cancel_of_a_finished_run_that_succeeded(history: History) -> None:
    answer = history.one("answer", "cancel", thread="interrupted")
    history.change_args(answer, result=True)


@forgery("linearizable")
def a_wait_that_saw_another_outcome(history: History) -> None:
    answer = history.one("answer", "wait", thread="queued", run=history.runs("queued")[1])
    history.change_args(answer, status="error")


# -- fences


@forgery("fences only grow")
def a_fence_given_out_again(history: History) -> None:
    claimed = history.step(history.runs("queued")[2], "claimed")
    history.change_step(claimed, fence=1)


@forgery("fences only grow")
def a_task_with_an_old_fence(history: History) -> None:
    began = history.one("step", "began", run=history.runs("rolled-back")[2])
    history.change(began, fence=1)


@forgery("fences only grow")
def a_thread_that_forgot_its_fence(history: History) -> None:
    threads = tuple(replace(thread, fence=1) for thread in history.audit.threads)
    history.audit = replace(history.audit, threads=threads)


@forgery("stale fences are refused")
def a_zombies_write_was_accepted(history: History) -> None:
    call = history.one("call", "save", thread="interrupted")
    answer = history.one("answer", "save", thread="interrupted")
    after = history.one("step", "began", run=history.runs("interrupted")[1]).at
    history.change(call, at=after + 1)
    history.change(answer, at=after + 2)


@forgery("linearizable")
def a_save_after_the_run_was_decided(history: History) -> None:
    call = history.one("call", "save", thread="rolled-back")
    answer = history.one("answer", "save", thread="rolled-back")
    after = history.one("answer", "cancel", thread="rolled-back").at
    history.change(call, at=after + 1)
    history.change(answer, at=after + 2)


@forgery("no write of a dead worker")
def a_dead_worker_wrote(history: History) -> None:
    call = history.one("call", "save", thread="interrupted")
    args = {"worker": "a.0", "epoch": call.epoch}
    history.add(Line("fault", "declared_dead", "test", call.at - 1, call.wall, args=args))


@forgery("no write of a dead worker")
def a_dead_worker_emitted(history: History) -> None:
    save = history.one("call", "save", thread="interrupted")
    call = replace(save, what="emit", call="forged", args={})
    death = Line(
        "fault", "declared_dead", "test", call.at - 1, call.wall, args={"worker": "a.0", "epoch": call.epoch}
    )
    history.add(death, call, replace(call, kind="answer", outcome="ok", at=call.at + 1))
    history.lines.remove(save)


@forgery("no write of a dead worker")
def a_dead_epoch_started_a_run(history: History) -> None:
    ended, later = (history.step(run, "finished") for run in history.runs("queued")[:2])
    history.change_step(ended, to_status=RunStatus.error, cause=Cause.orphaned, epoch=later.epoch)


# -- queues and keys


@forgery("queue order = start order")
def two_claims_swapped(history: History) -> None:
    second, third = (history.step(run, "claimed") for run in history.runs("queued")[1:3])
    history.change_step(second, run_id=third.run_id)
    history.change_step(third, run_id=second.run_id)


@forgery("linearizable")
def two_tasks_began_in_the_wrong_order(history: History) -> None:
    ids = history.runs("queued")[1:3]
    swapped = dict(zip(ids, reversed(ids), strict=True))
    for line in [line for line in history.lines if line.kind == "step" and line.run in swapped]:
        history.change(line, run=swapped[line.run or ""])


@forgery("one run per idempotency key")
def two_rows_with_one_key(history: History) -> None:
    history.change_row(history.runs("rejected")[1], idempotency_key="k")


@forgery("one run per idempotency key")
def two_runs_answered_for_one_key(history: History) -> None:
    again = [
        answer
        for call in history.all("call", "admit", thread="rejected")
        for answer in history.all("answer", "admit", call=call.call)
        if call.args.get("key") == "k"
    ][1]
    history.change(again, run="another")


# -- nothing stuck, nothing stale


@forgery("everything settles")
def a_run_left_unsettled(history: History) -> None:
    history.change_row(history.runs("rejected")[0], settled_at=None, holds_thread=True)


@forgery("everything settles")
def a_run_left_running(history: History) -> None:
    history.change_row(history.runs("rejected")[0], status=RunStatus.running)


@forgery("everything settles")
def a_run_that_settled_late(history: History) -> None:
    run = history.runs("rolled-back")[1]
    history.change_row(run, settled_at=(history.row(run).settled_at or 0) + 11_000_000)


@forgery("linearizable")
def a_wait_that_returned_before_the_task_stopped(history: History) -> None:
    run = history.runs("rejected")[0]
    answer, stopped = history.one("answer", "wait", run=run), history.one("step", "stopped", run=run)
    history.change(answer, at=stopped.at - MICROSECOND)


@forgery("linearizable")
def a_cancel_that_waited_and_returned_too_early(history: History) -> None:
    run = history.runs("rolled-back")[1]
    answer, stopped = history.one("answer", "cancel", run=run), history.one("step", "stopped", run=run)
    history.change(answer, at=stopped.at - 1)


@forgery("linearizable")
def a_stale_read_went_back_to_running(history: History) -> None:
    last = history.all("answer", "get", thread="rejected")[-1]
    history.change_args(last, status="running")


@forgery("a terminal status never changes")
def a_worker_whose_view_went_back(history: History) -> None:
    last = history.all("answer", "get", run=history.runs("rolled-back")[1])[-1]
    assert last.args["source"] == "memory"
    history.change_args(last, status="running")


@forgery("audit = rows")
def a_row_changed_behind_the_audit(history: History) -> None:
    history.change_row(history.runs("rejected")[0], status=RunStatus.error)


# -- rollback


@forgery("rollbacks restore")
def a_rollback_that_left_something_behind(history: History) -> None:
    began = history.one("step", "began", run=history.runs("rolled-back")[2])
    history.change_args(began, values={"n": 2})


@forgery("linearizable")
def a_run_that_started_with_values_that_no_run_wrote(history: History) -> None:
    began = history.one("step", "began", run=history.runs("interrupted")[1])
    history.change_args(began, values={"n": 99})


@forgery("rollbacks restore")
def a_last_rollback_that_left_something_behind(history: History) -> None:
    after = history.runs("rolled-back")[2]
    history.lines = [line for line in history.lines if line.run != after]


# -- cost


@forgery("ticks do not grow with runs")
def reads_that_grow_with_runs(history: History) -> None:
    points = [(0, 0, 0), (0, 10, 30), (1000, 10, 30), (1000, 20, 10_030)]
    history.add(
        *(
            Line("sample", "tick", "a.0", at, at, args={"runs": runs, "ticks": ticks, "reads": reads})
            for at, (runs, ticks, reads) in enumerate(points)
        )
    )


def test_the_real_history_is_accepted(history: History) -> None:
    report = history.check()
    report.raise_if_violated()
    assert report.counts["calls"] > 25
    assert report.counts["transitions"] > 35


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_history_is_refused(history: History, name: str) -> None:
    expected, forge = FORGERIES[name]
    before = list(history.lines), history.audit
    forge(history)
    assert (history.lines, history.audit) != before, "the forgery changed nothing"
    violated = {finding.property for finding in history.check().findings}
    assert expected in violated


def test_there_are_enough_forgeries() -> None:
    assert len(FORGERIES) >= 20
