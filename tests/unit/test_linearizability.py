"""The search, on random histories of the sequential thread itself."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories.calls import of_threads
from tests.histories.linearizability import check_thread, search
from tests.histories.lines import Line
from tests.histories.sequential import _APPLY, OPEN, Op, Thread, after, reachable
from tests.support.strategies import STRATEGIES

WORKERS = ("a", "b", "c")
STATUSES = ("pending", "running", "success", "error", "timeout", "interrupted")
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
def test_and_is_not_with_an_answer_that_was_never_given(seed: int) -> None:
    ops = Play(seed).history(30)
    lie = Op(
        "get", "a", ops[-1].begin, ops[-1].begin + 20, run=ops[0].run, answer={"status": "unknown to all"}
    )
    verdict = search([*ops, lie], budget=20.0)
    assert not verdict.linearizable


def exhaustive(ops: list[Op]) -> bool:
    """The same question without any of the search's economies: every order, every drift."""
    answered = [op for op in ops if op.end is not None]
    seen = set[tuple[frozenset[Op], Thread]]()
    todo = [(frozenset[Op](), Thread())]
    while todo:
        placed, state = todo.pop()
        if placed.issuperset(answered):
            return True
        deadline = min(op.end for op in answered if op not in placed and op.end is not None)
        for op in ops:
            if op in placed or op.begin > deadline:
                continue
            for old in reachable(state):
                for new in _APPLY[op.what](old, op):
                    node = (placed | {op}, new)
                    if node not in seen:
                        seen.add(node)
                        todo.append(node)
    return False


def lose_an_admission(ops: list[Op], random: random.Random) -> None:
    admitted = [at for at, op in enumerate(ops) if op.what == "admit" and op.run is not None]
    if admitted:
        at = random.choice(admitted)
        names = (ops[at].run or "", "unseen")
        ops[at] = replace(ops[at], end=None, outcome="unknown", run=None, candidates=names)


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0, max_value=1 << 32), st.booleans())
def test_its_economies_change_no_verdict(seed: int, forged: bool) -> None:
    play = Play(seed)
    ops = play.history(8)
    if play.random.random() < 0.4:
        who = play.random.choice((*WORKERS, "*"))
        ops.insert(0, Op("excuse", "test", 0, 0, args={"who": who}))
    if play.random.random() < 0.5:
        lose_an_admission(ops, play.random)
    if forged:
        answered_at = [at for at, op in enumerate(ops) if "status" in op.answer or "result" in op.answer]
        at = play.random.choice(answered_at or [0])
        lie = {"result": not ops[at].answer["result"]} if "result" in ops[at].answer else None
        ops[at] = replace(ops[at], answer=lie or {"status": play.random.choice(STATUSES)})
    assert search(ops, budget=20.0).linearizable == exhaustive(ops)


def test_many_dead_workers_runs_do_not_make_the_search_explode() -> None:
    """Each may have ended in error or interrupted, and no operation has queried which: 2^40 states."""
    excuse = Op("excuse", "test", 0, 0, args={"who": "*"})
    admissions = [
        op("admit", 10 * at + 1, 10 * at + 2, f"r{at}", args={"strategy": "reject"}) for at in range(40)
    ]
    lie = op("get", 1000, 1001, "r39", answer={"status": "unknown to all"})
    verdict = search([excuse, *admissions, lie], budget=20.0)
    assert verdict.decided
    assert not verdict.linearizable
    assert verdict.steps < 500


def op(what: str, begin: int, end: int | None, run: str | None = "r", **fields: object) -> Op:
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


def test_a_lost_admission_may_have_got_the_run_that_its_key_is_answered_with_later() -> None:
    lines = [
        Line("call", "admit", "a", 0, 0, thread="t", call="a:1", args={"key": "k"}),
        Line("call", "admit", "b", 5, 5, thread="t", call="b:1"),
        answered("admit", "b", 6, "b:1", outcome="refused", error="ConflictError", args={"active_run": "r"}),
        Line("call", "admit", "b", 7, 7, thread="t", call="b:2", args={"key": "k"}),
        answered("admit", "b", 8, "b:2", run="r"),
    ]
    assert check_thread("t", of_threads(lines)["t"], budget=5) == []
    lines[0] = replace(lines[0], args={"key": "another"})
    assert check_thread("t", of_threads(lines)["t"], budget=5) != []


def test_a_lost_admission_is_not_tried_with_each_of_the_runs_that_no_call_names() -> None:
    """They are known from the store alone. Eight of them for eight lost admissions are 43 million ways."""
    lines = [
        *(
            Line("call", "admit", "a", n, n, thread="t", call=f"a:{n}", args={"strategy": "enqueue"})
            for n in range(8)
        ),
        Line("call", "get", "b", 10, 10, run="r7", thread="t", call="b:1"),
        answered("get", "b", 11, "b:1", run="r7", args={"status": "running"}),
    ]
    ops = of_threads(lines, [(f"r{n}", "t") for n in range(8)])["t"]
    assert {op.candidates for op in ops if op.what == "admit"} == {("r7", f"unseen-{n}") for n in range(8)}
    assert check_thread("t", ops, budget=5) == []


def test_an_id_that_one_lost_admission_got_another_one_cannot_get() -> None:
    lost = [op("admit", at, None, None, outcome="unknown", candidates=("r",)) for at in (0, 1)]
    ended = [op("cancel", 2, 3, answer={"result": True}), op("wait", 4, 5, answer={"status": "interrupted"})]
    refused = op("admit", 6, 7, None, outcome="refused", error="ConflictError", answer={"active_run": "r"})
    assert search([*lost, *ended], budget=5).linearizable
    assert not search([*lost, *ended, refused], budget=5).linearizable


@pytest.mark.parametrize("status", ["interrupted", "success", "error"])
def test_a_lost_admission_may_want_the_id_of_a_run_that_has_ended(status: str) -> None:
    """Its status is not queried after that, and contradicts no earlier answer."""
    lost = op("admit", 0, None, None, outcome="unknown", candidates=("r",))
    ended = [op("began", 3, 3, fence=1), op("stopped", 4, 4, args={"outcome": status})]
    waited = op("wait", 5, 6, answer={"status": status})
    ops = [lost, op("admit", 1, 2), *ended, waited, op("admit", 7, 8, "s")]
    assert search(ops, budget=5).linearizable


def test_a_worker_may_die_between_its_decision_and_releasing_the_thread() -> None:
    """Another run requests to replace a decided run that still holds: it is too late to stop that run."""
    lines = [
        Line("call", "admit", "a", 0, 0, thread="t", call="a:1"),
        answered("admit", "a", 1, "a:1", run="r"),
        Line("step", "began", "a", 2, 2, run="r", thread="t", epoch=1, fence=1, args={"values": None}),
        Line("step", "stopped", "a", 3, 3, run="r", thread="t", epoch=1, fence=1),
        Line("fault", "killed", "test", 4, 4, args={"worker": "a"}),
        Line("call", "admit", "b", 5, 5, thread="t", call="b:1", args={"strategy": "interrupt"}),
        answered("admit", "b", 6, "b:1", run="s"),
        Line("call", "admit", "b", 7, 7, thread="t", call="b:2"),
        answered("admit", "b", 8, "b:2", outcome="refused", error="ConflictError", args={"active_run": "r"}),
        Line("call", "get", "b", 9, 9, run="r", thread="t", call="b:3"),
        answered("get", "b", 10, "b:3", run="r", args={"status": "success", "source": "store"}),
    ]
    assert check_thread("t", of_threads(lines)["t"], budget=5) == []
    del lines[4]
    assert check_thread("t", of_threads(lines)["t"], budget=5) != []


def answered(what: str, worker: str, at: int, call: str, **fields: Any) -> Line:
    fields = {"outcome": "ok", **fields}
    return Line("answer", what, worker, at, at, thread="t", call=call, **fields)


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
