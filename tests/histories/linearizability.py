"""Is a history linearizable? Wing and Gong's search with Lowe's cache, thread by thread.

Each call gets one instant between its call and its answer. The search looks for an order of these
instants that the sequential thread can follow with the same answers. A call without an answer may
take effect at any time after it was made, or never. A node (set of calls that took effect, state) is
tried once, even if the search restarts with another order of calls.

Three rules keep the search small where many calls of killed workers have no answer (`relevance`):
a state in which a run has ended as no later answer allows is discarded at once; state that no later
call reads is dropped; the coordinator's own steps are taken only when a call needs them (`after`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import NamedTuple

from tests.histories.findings import Finding
from tests.histories.relevance import Relevance
from tests.histories.sequential import Op, Thread, after, anything

STEPS_PER_CLOCK_READ = 16
"""One step takes 20 us to a few ms."""

UNDECIDED = "linearizable: undecided"
"""The property of a thread whose search has run out of its budget."""

FIRST_ATTEMPT = 2000
"""Steps of the first attempt. Each further attempt has twice as many and tries calls in another order: a
wrong choice near the start costs a search through everything after it, and most other orders avoid it."""

EXPLAINING = 2.0  # time (s) to search for the calls that a finding shows


@dataclass(frozen=True)
class Verdict:
    """`decided` is False if the budget ran out. `placed`: the largest number of answered calls that were put
    in order. `stuck`: the calls that came next in that order, and whose answers no state allowed."""

    linearizable: bool
    decided: bool
    steps: int
    placed: int = 0
    stuck: tuple[Op, ...] = ()


class _Node(NamedTuple):
    """The calls that are placed. Answered calls, in order of their begin: all below `first`, and those in
    the bit set `more` (bit 0 = `first`). Open-ended calls: those in the bit set `also`."""

    first: int
    more: int
    also: int
    state: Thread

    def place(self, at: int, state: Thread) -> _Node:
        first, more = self.first, self.more | 1 << (at - self.first)
        while more & 1:
            first, more = first + 1, more >> 1
        return _Node(first, more, self.also, state)


def search(ops: Sequence[Op], *, budget: float, foresight: bool = True) -> Verdict:
    """`budget` is in seconds of processor time, so that the verdict does not depend on other load. Without
    `foresight` the search also follows states that a later answer contradicts: it takes longer, and gets
    stuck at the contradiction."""
    return _Search(ops, foresight).run(time.thread_time() + budget)


class _Search:
    def __init__(self, ops: Sequence[Op], foresight: bool) -> None:
        self.answered = sorted((op for op in ops if op.end is not None), key=lambda op: op.begin)
        self.open_ended = sorted((op for op in ops if op.end is None), key=lambda op: op.begin)
        self._relevance = Relevance(self.answered, self.open_ended)
        self._possible = self._relevance.possible if foresight else anything
        self.steps, self.placed = 0, -1
        self.stuck: tuple[Op, ...] = ()
        self._seen: set[_Node] = set()

    def run(self, until: float) -> Verdict:
        for attempt in count():
            order = Random(attempt) if attempt else None
            verdict = self._attempt(until, FIRST_ATTEMPT << attempt, order)
            if verdict is not None:
                return verdict
        raise AssertionError("attempts do not end")

    def _attempt(self, until: float, most: int, order: Random | None) -> Verdict | None:
        """Returns None after `most` steps. The next attempt then explores the open nodes in another order."""
        start = _Node(0, 0, 0, Thread())
        path, last = [(start, self._next(start, order))], self.steps + most
        self._seen.add(start)
        while path:
            self.steps += 1
            if self.steps % STEPS_PER_CLOCK_READ == 0 and time.thread_time() > until:
                return Verdict(False, False, self.steps, self.placed, self.stuck)
            if self.steps > last:
                self._seen.difference_update(node for node, _ in path)  # the others lead nowhere
                return None
            node = next(path[-1][1], None)
            if node is None:
                path.pop()
            elif node.first == len(self.answered):
                return Verdict(True, True, self.steps, len(self.answered))
            elif node not in self._seen:
                self._seen.add(node)
                path.append((node, self._next(node, order)))
        return Verdict(not self.answered, True, self.steps, self.placed, self.stuck)

    def _next(self, node: _Node, order: Random | None) -> Iterator[_Node]:
        """Yields the nodes one call further. Without an `order`, calls are tried in the order of answers."""
        candidates, deadline = self._candidates(node)
        self._note(node, candidates)
        if order is not None:
            order.shuffle(candidates)
        for at in candidates:
            for state in after(node.state, self.answered[at], self._possible):
                yield self._known(node.place(at, state))
        for at, op in enumerate(self.open_ended):
            if not node.also >> at & 1 and (deadline is None or op.begin <= deadline):
                for state in after(node.state, op, self._possible):
                    if state != node.state:
                        yield self._known(node._replace(also=node.also | 1 << at, state=state))

    def _known(self, node: _Node) -> _Node:
        placed = (1 << node.first) - 1 | node.more << node.first
        return node._replace(state=self._relevance.without_the_past(node.state, placed, node.also))

    def _candidates(self, node: _Node) -> tuple[list[int], int | None]:
        """Returns the unplaced calls that were made before the earliest answer of an unplaced call, and the
        time of that answer."""
        candidates: list[tuple[int, int]] = []
        deadline: int | None = None
        for at in range(node.first, len(self.answered)):
            op = self.answered[at]
            if deadline is not None and op.begin > deadline:
                break
            if not node.more >> (at - node.first) & 1 and op.end is not None:
                candidates.append((op.end, at))
                deadline = op.end if deadline is None else min(deadline, op.end)
        return [at for _, at in sorted(candidates)], deadline

    def _note(self, node: _Node, candidates: list[int]) -> None:
        placed = node.first + node.more.bit_count()
        if placed > self.placed:
            self.placed = placed
            self.stuck = tuple(self.answered[at] for at in candidates)


def check_thread(thread: str, ops: Sequence[Op], *, budget: float) -> list[Finding]:
    verdict = search(ops, budget=budget)
    if verdict.linearizable:
        return []
    if verdict.decided:
        shown = search(ops, budget=min(budget, EXPLAINING), foresight=False)
        verdict = replace(verdict, placed=shown.placed, stuck=shown.stuck)
    lines = tuple(dict.fromkeys(line for op in verdict.stuck[:4] for line in op.lines))
    where = (
        f"{verdict.placed} of {sum(op.end is not None for op in ops)} answered calls could be put in order"
    )
    if not verdict.decided:
        what = f"undecided after {budget:g} s and {verdict.steps} steps: {where}"
        return [Finding(UNDECIDED, what, lines, thread)]
    names = ", ".join(f"{op.what} {op.run or ''}".strip() for op in verdict.stuck[:4])
    what = f"no order of these calls explains their answers: {where}, then none of: {names}"
    return [Finding("linearizable", what, lines, thread, verdict.stuck[0].run if verdict.stuck else None)]
