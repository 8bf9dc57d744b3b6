"""What of a thread's state still matters, given the calls that are still to be put in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.histories.sequential import OPEN, Op, Run, Thread

ENDS = frozenset({"success", "error", "timeout", "interrupted"})


class Relevance:
    """Of one search. `answered` and `open_ended` in the order of their bits."""

    def __init__(self, answered: Sequence[Op], open_ended: Sequence[Op]) -> None:
        self._ends = _ends(answered)
        self._asked: dict[str, int] = defaultdict(int)
        self._wanted: dict[str, int] = defaultdict(int)
        for at, op in enumerate(answered):
            if op.run is not None:
                self._asked[op.run] |= 1 << at
        for at, op in enumerate(open_ended):
            for name in (op.run, *op.candidates) if op.what == "admit" else ():
                if name is not None:
                    self._wanted[name] |= 1 << at

    def possible(self, state: Thread) -> bool:
        """An end is for ever: it is the one that the answers tell of, whenever they do."""
        return all(run.status in OPEN or run.status in self._ends.get(run.run, ENDS) for run in state.runs)

    def without_the_past(self, state: Thread, placed: int, also: int) -> Thread:
        """Two states that no call still to come can tell apart become one. Of a settled run its status and
        owner are asked for, and by a lost admission whether its id is taken; a call without an answer
        changes it no more."""
        runs: list[Run] = []
        for run in state.runs:
            if not run.settled:
                runs.append(run)
            elif self._asked[run.run] & ~placed:
                runs.append(Run(run.run, run.worker, run.status, settled=True))
            elif self._wanted[run.run] & ~also:
                end = min(self._ends.get(run.run, ENDS), default="")  # one for all that are possible
                runs.append(Run(run.run, "", end, settled=True))
        return state._replace(runs=tuple(runs))


def _ends(answered: Iterable[Op]) -> dict[str, frozenset[str]]:
    """How each run can have ended, as far as answers tell."""
    found: dict[str, frozenset[str]] = {}
    for op in answered:
        if op.run is None or op.outcome != "ok":
            continue
        if op.what == "cancel" and op.answer.get("result") is not False:
            told = frozenset({"interrupted"})
        elif op.what in ("wait", "get", "finish") and op.answer.get("status") in ENDS:
            told = frozenset({op.answer["status"]})
        else:
            continue
        found[op.run] = found.get(op.run, ENDS) & told
    return found
