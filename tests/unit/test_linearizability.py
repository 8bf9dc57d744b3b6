"""The search, on random histories of the sequential thread itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.testing.history.calls import of_threads
from coordinator.testing.history.linearizability import check_thread, search
from coordinator.testing.history.lines import Line
from coordinator.testing.history.sequential import OPEN, Op, Thread, after, reachable

WORKERS = ("a", "b", "c")
STRATEGIES = ("reject", "enqueue", "interrupt", "rollback")
SPREAD = 8
"""How far from its effect a call may begin and end; effects are 2 apart, so that some eight overlap."""


class Play:
    """Makes up calls, lets the sequential thread answer them one by one, and spreads their begin and end
    around the moment of their effect."""

    def __init__(self, seed: int) -> None:
        self.random, self.state, self.ops, self.now = random.Random(seed), Thread(), list[Op](), 100
        self.fence = self.runs = 0

    def history(self, length: int) -> list[Op]:
        while len(self.ops) < length:
            self.state = self.random.choice(reachable(self.state))  # what the coordinator does by itself
            self.attempt(self.made_up())
        return self.ops

    def attempt(self, op: Op) -> None:
        states = after(self.state, op)
        if not states:
            return
        self.state = self.random.choice(states)
        self.now += 2
        end = None if op.end is None else self.now + self.random.randint(0, SPREAD)
        begin = self.now - self.random.randint(0, SPREAD)
        if op.what in ("began", "stopped"):
            begin, end = self.now, self.now
        self.ops.append(replace(op, begin=begin, end=end))

    def made_up(self) -> Op:
        worker, state = self.random.choice(WORKERS), self.state
        run = self.random.choice(state.runs) if state.runs else None
        kind = self.random.choice(("admit", "cancel", "settled", "get", "save", "task", "task"))
        if kind == "admit" or run is None:
            return self._admission(worker)
        if kind == "task" and (holder := state.holder) is not None:
            return self._task(holder.run, holder.begun, holder.before)
        if kind == "cancel":
            unknown = self.random.random() < 0.2 and run.status in OPEN
            result = run.status in (*OPEN, "interrupted")
            args = {"action": self.random.choice(("interrupt", "rollback"))}
            cancel = Op("cancel", worker, 0, 0, run=run.run, args=args, answer={"result": result})
            return replace(cancel, end=None, outcome="unknown", answer={}) if unknown else cancel
        if kind == "save" and run.begun and run.holds and run.stopped is None:
            return Op("save", run.worker, 0, 0, run=run.run, args={"values": f'"{self.now}"'})
        if kind == "settled" and run.settled:
            return Op("wait", worker, 0, 0, run=run.run, answer={"status": run.status})
        return Op("get", worker, 0, 0, run=run.run, answer={"status": run.status})

    def _admission(self, worker: str) -> Op:
        strategy = self.random.choice(STRATEGIES)
        if strategy == "reject" and self.state.in_flight:
            holder = self.state.in_flight[0].run
            return Op(
                "admit",
                worker,
                0,
                0,
                "refused",
                "ConflictError",
                args={"strategy": strategy},
                answer={"active_run": holder},
            )
        self.runs += 1
        return Op("admit", worker, 0, 0, run=f"r{self.runs}", args={"strategy": strategy})

    def _task(self, run: str, begun: bool, before: str | None) -> Op:
        if not begun:
            self.fence += 1
            return Op("began", "a", 0, 0, run=run, fence=self.fence, args={"values": before or "null"})
        return Op("stopped", "a", 0, 0, run=run, args={"outcome": "success", "values": f'"{self.now}"'})


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0, max_value=1 << 32))
def test_what_the_sequential_thread_did_is_linearizable_however_it_overlaps(seed: int) -> None:
    ops = Play(seed).history(40)
    verdict = search(ops, budget=20.0)
    assert verdict.decided, f"{verdict.steps} steps"
    assert verdict.linearizable, verdict


@settings(max_examples=25, deadline=None)
@given(st.integers(min_value=0, max_value=1 << 32))
def test_and_is_not_with_an_answer_that_nobody_gave(seed: int) -> None:
    ops = Play(seed).history(30)
    lie = Op(
        "get", "a", ops[-1].begin, ops[-1].begin + 20, run=ops[0].run, answer={"status": "never heard of"}
    )
    verdict = search([*ops, lie], budget=20.0)
    assert not verdict.linearizable


def op(what: str, begin: int, end: int | None, run: str = "r", **fields: object) -> Op:
    return replace(Op(what, "a", begin, end, run=run), **fields)


def test_an_overlapping_read_may_see_either() -> None:
    admit = op("admit", 0, 1)
    cancel = op("cancel", 2, 10, answer={"result": True})
    for status in ("pending", "interrupted"):
        assert search([admit, cancel, op("get", 5, 6, answer={"status": status})], budget=5).linearizable
    late = op("get", 11, 12, answer={"status": "pending"})
    assert not search([admit, cancel, late], budget=5).linearizable


@pytest.mark.parametrize("status", ["pending", "interrupted"])
def test_a_call_without_an_answer_may_have_happened_or_not_or_yet(status: str) -> None:
    lost = op("cancel", 2, None, outcome="unknown")
    later = op("get", 1000, 1001, answer={"status": status})
    assert search([op("admit", 0, 1), lost, later], budget=5).linearizable
    before = op("get", 1, 1, answer={"status": "interrupted"})
    assert not search([op("admit", 0, 0), lost, before], budget=5).linearizable


def test_a_lost_admission_explains_a_run_that_is_seen_later() -> None:
    lines = [
        Line("call", "admit", "a", 0, 0, thread="t", call="a:1", args={"strategy": "reject"}),
        Line("call", "get", "b", 5, 5, run="r", thread="t", call="b:1"),
        Line(
            "answer",
            "get",
            "b",
            6,
            6,
            run="r",
            thread="t",
            call="b:1",
            outcome="ok",
            args={"status": "pending"},
        ),
    ]
    assert check_thread("t", of_threads(lines)["t"], budget=5) == []
    assert check_thread("t", of_threads(lines[1:])["t"], budget=5) != []


def test_the_runs_of_a_killed_worker_may_be_ended_by_others_and_no_others() -> None:
    lines = [
        Line("call", "admit", "a", 0, 0, thread="t", call="a:1"),
        Line("answer", "admit", "a", 1, 1, run="r", thread="t", call="a:1", outcome="ok"),
        Line("step", "began", "a", 2, 2, run="r", thread="t", epoch=1, fence=1, args={"values": None}),
        Line("fault", "killed", "test", 3, 3, args={"worker": "a"}),
        Line("call", "wait", "b", 4, 4, run="r", thread="t", call="b:1"),
        Line(
            "answer",
            "wait",
            "b",
            5,
            5,
            run="r",
            thread="t",
            call="b:1",
            outcome="ok",
            args={"status": "error"},
        ),
    ]
    assert check_thread("t", of_threads(lines)["t"], budget=5) == []
    lines[3] = replace(lines[3], args={"worker": "b"})
    assert check_thread("t", of_threads(lines)["t"], budget=5) != []


def test_a_search_that_runs_out_of_time_is_a_finding() -> None:
    ops = Play(1).history(200)
    lie = op("get", ops[-1].begin + 100, ops[-1].begin + 101, run="r1", answer={"status": "?"})
    (finding,) = check_thread("t", [*ops, lie], budget=0.0)
    assert finding.property == "linearizable: undecided"
