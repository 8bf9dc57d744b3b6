"""The part of a thread's state that matters to the calls that are still to be put in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.histories.sequential import OPEN, Op, Run, Thread

ENDS = frozenset({"success", "error", "timeout", "interrupted"})


class Relevance:
    """Serves one search. `answered` and `open_ended` are in the order of their bits."""

    def __init__(self, answered: Sequence[Op], open_ended: Sequence[Op]) -> None:
        self._ends = _ends(answered)
        self._readers: dict[str, int] = defaultdict(int)
        self._lost_admissions: dict[str, int] = defaultdict(int)
        for at, op in enumerate(answered):
            if op.run is not None:
                self._readers[op.run] |= 1 << at
        for at, op in enumerate(open_ended):
            for name in (op.run, *op.candidates) if op.what == "admit" else ():
                if name is not None:
                    self._lost_admissions[name] |= 1 << at

    def possible(self, state: Thread) -> bool:
        """A terminal status never changes, so it must be one that all answers about the run allow."""
        return all(run.status in OPEN or run.status in self._ends.get(run.run, ENDS) for run in state.runs)

    def without_the_past(self, state: Thread, placed: int, also: int) -> Thread:
        """Merges states that no later call can distinguish. Of a settled run, later calls read the status and
        the owner, and a lost admission whether the id is taken. No call without an answer changes it."""
        runs: list[Run] = []
        for run in state.runs:
            if not run.settled:
                runs.append(run)
            elif self._readers[run.run] & ~placed:
                runs.append(Run(run.run, run.worker, run.status, settled=True))
            elif self._lost_admissions[run.run] & ~also:
                end = min(self._ends.get(run.run, ENDS), default="")  # one stands for all possible ends
                runs.append(Run(run.run, "", end, settled=True))
        return state._replace(runs=tuple(runs))


def _ends(answered: Iterable[Op]) -> dict[str, frozenset[str]]:
    """Returns the terminal statuses that the answers about each run allow."""
    ends: dict[str, frozenset[str]] = {}
    for op in answered:
        if op.run is None or op.outcome != "ok":
            continue
        if op.what == "cancel" and op.answer.get("result") is not False:
            allowed = frozenset({"interrupted"})
        elif op.what in ("wait", "get", "finish") and op.answer.get("status") in ENDS:
            allowed = frozenset({op.answer["status"]})
        else:
            continue
        ends[op.run] = ends.get(op.run, ENDS) & allowed
    return ends
