"""The invariants of states and of steps.

I1   at most one run holds the thread
I2   a terminal status never changes (so an acknowledged cancel never ends in success)
I3   at most one task executes on live workers, not counting tasks that were closed by force
I4   at most one task carries the newest fence; none on a live worker does while the thread is free
I5   no task begins on a worker that was declared dead
I6   the next run never starts before a restore is complete or given up
I7   after a rollback the thread's values are those with which the rolled back run started
I8   a save or restore is refused once a newer fence has opened the values, and a save also when its
     run has been settled by its own worker
I9   a worker that has drained has no task, owns no run that holds the thread, and admits no run
I10  a rollback is adopted at most `attempts` times
I11  a run has at most `retries` further attempts after deaths of its worker
I12  a worker that only admits owns no run and has no task
I13  a run that was dispatched and has not begun is not ended by the death of a worker while another one
     can execute it, also if a worker has taken it (and by L, it is executed or cancelled in the end)
L    from every state, steps without faults lead to "every run settled" (see `exploration`)
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.states import TERMINAL, State
from tests.model.steps import Scenario, Step


def of_state(s: State, scene: Scenario) -> str | None:
    return next(_of_state(s, scene), None)


def _of_state(s: State, scene: Scenario) -> Iterator[str]:
    if sum(run.holds for run in s.runs) > 1:
        yield "I1: two runs hold the thread"
    tasks = [(w, task) for w in s.workers if w.mode != "down" for task in w.tasks]
    on_live = [(w, task) for w, task in tasks if w.epoch not in s.declared_dead]
    if sum(not task.closed for _, task in on_live if not task.deaf or s.runs[task.run].holds) > 1:
        yield "I3: two tasks execute on live workers"
    if sum(task.fence == s.fence for _, task in tasks) > 1:
        yield "I4: two tasks carry the newest fence"
    if s.holder is None and any(task.fence == s.fence for _, task in on_live):
        yield "I4: the thread is free, and a task on a live worker carries the newest fence"
    if any(w.mode == "gone" and w.tasks for w in s.workers):
        yield "I9: a worker left while its tasks execute"
    if any(run.deaths > scene.retries for run in s.runs):
        yield "I11: a run is continued again and again"
    for i in scene.admit_only:
        if s.workers[i].tasks or any(run.holds and run.owner == s.workers[i].epoch for run in s.runs):
            yield "I12: a worker that only admits executes a run"
    if any(run.attempts > scene.attempts for run in s.runs):
        yield "I10: a rollback is adopted again and again"


def of_step(before: State, step: Step, scene: Scenario) -> str | None:
    after = step.after
    for r, (old, new) in enumerate(zip(before.runs, after.runs, strict=True)):
        if old is new and not old.acknowledged:
            continue
        if old.status in TERMINAL and new.status != old.status:
            return f"I2: run {r} went from {old.status} to {new.status}"
        if old.acknowledged and new.status in TERMINAL - {"interrupted"}:
            return f"I2: the cancel of run {r} was acknowledged, and it ended in {new.status}"
        if (
            (old.status, new.status) == ("pending", "error")
            and scene.admit_only
            and scene.can_execute(before)
        ):
            return f"I13: run {r} ended before it began, although a worker can execute it"
        if new.started and not old.started and any(run.must_undo for run in after.runs):
            return f"I6: run {r} started before a restore was complete"
        undone = new.rollback and new.started and not new.failed and new.status in TERMINAL
        if undone and old.holds and not new.holds and after.values != new.values_at_start:
            return f"I7: run {r} was rolled back, and left other values than those at its start"
    return next(_of_workers(before, after), None) or _of_writes(before, step)


def _of_workers(before: State, after: State) -> Iterator[str]:
    for i, (old, new) in enumerate(zip(before.workers, after.workers, strict=True)):
        if new.epoch == old.epoch and new.epoch in before.declared_dead and new.tasks != old.tasks:
            began = {(t.run, t.fence) for t in new.tasks} - {(t.run, t.fence) for t in old.tasks}
            if began:
                yield f"I5: a task began on worker {i}, which was declared dead"
        if not old.draining:
            continue
        admitted = [
            run
            for was, run in zip(before.runs, after.runs, strict=True)
            if was.status == "-" != run.status and new.epoch in (run.owner, run.home)
        ]
        if admitted:
            yield f"I9: worker {i} drains, and has admitted a run"


def _of_writes(before: State, step: Step) -> str | None:
    fence = step.restores if step.saves is None else step.saves.fence
    if fence is not None and fence < before.opened:
        return f"I8: a write with fence {fence} was accepted, although {before.opened} had opened the values"
    if step.saves is not None:
        mine = any(step.saves in w.tasks and w.epoch not in before.declared_dead for w in before.workers)
        if mine and not before.runs[step.saves.run].holds:
            return f"I8: a save of run {step.saves.run} was accepted after its worker had settled it"
    return None
