"""Converts lines to the operations of each thread."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from tests.histories.lines import Line
from tests.histories.sequential import Op, key_of

EXCUSING = frozenset({"killed", "paused", "drained", "store_down", "declared_dead", "stopped", "lost_lease"})
"""Faults after which other workers may end the runs of a worker."""
WITHOUT_EFFECT = frozenset({"wait", "get"})
BESIDE_THE_THREAD = frozenset({"emit"})
"""Calls that change no run and no values: they have no place in a thread's order."""
VALUES = ("values",)


def of_threads(lines: Iterable[Line], run_ids: Iterable[tuple[str, str]] = ()) -> dict[str, list[Op]]:
    """`lines` in the order of time. `run_ids`: pairs (run, thread) from another source."""
    history = list(lines)
    threads = dict(run_ids) | {line.run: line.thread for line in history if line.run and line.thread}
    ops: dict[str, list[Op]] = defaultdict(list)
    for op, thread in _calls(history):
        where = thread or threads.get(op.run or "")
        if where is not None:
            ops[where].append(op)
    for line in history:
        if line.kind == "step" and line.what in ("began", "stopped") and line.thread is not None:
            ops[line.thread].append(_at(line, line.what, _step_args(line)))
    excuses = [excuse for line in history if (excuse := _excuse(line)) is not None]
    return {thread: _complete(calls, excuses, threads, thread) for thread, calls in ops.items()}


def _calls(history: list[Line]) -> Iterator[tuple[Op, str | None]]:
    answers = {line.call: line for line in history if line.kind == "answer"}
    for call in (line for line in history if line.kind == "call"):
        answer = answers.get(call.call)
        known = answer is not None and answer.outcome != "unknown"
        if call.what in BESIDE_THE_THREAD:
            continue
        if call.what in WITHOUT_EFFECT and (not known or (answer is not None and answer.outcome != "ok")):
            continue
        if call.what == "get" and answer is not None and answer.args.get("source") == "memory":
            continue  # a worker's own view, see `properties.views_never_go_back`
        op = _op(call, answer if known else None)
        yield op, call.thread or (answer.thread if answer else None)
        if call.what == "cancel" and call.args.get("wait") and op.answer.get("result"):
            answered = Op("wait", op.worker, op.begin, op.end, run=op.run, lines=op.lines)
            yield answered, call.thread


def _op(call: Line, answer: Line | None) -> Op:
    return Op(
        call.what,
        call.worker,
        call.at,
        answer.at if answer else None,
        outcome=(answer.outcome if answer else None) or "unknown",
        error=answer.error if answer else None,
        run=(answer.run if answer else None) or call.run,
        fence=call.fence,
        args=plain(call.args),
        answer=answer.args if answer else {},
        lines=tuple(str(line) for line in (call, answer) if line is not None),
    )


def _step_args(line: Line) -> dict[str, Any]:
    """A task that returns no values leaves the thread's values unchanged."""
    leaves_none = line.what == "stopped" and line.args.get("values") is None
    return {name: value for name, value in line.args.items() if name != "values" or not leaves_none}


def _at(line: Line, what: str, args: dict[str, Any]) -> Op:
    """An event of one instant, as an operation."""
    ids: dict[str, Any] = {"run": line.run, "fence": line.fence, "lines": (str(line),)}
    return Op(what, line.worker, line.at, line.at, args=plain(args), **ids)


def _excuse(line: Line) -> Op | None:
    if line.kind != "fault":
        return None
    if line.what == "deaf" and line.run is not None:
        return _at(line, "excuse", {"who": line.run})
    return _at(line, "excuse", {"who": line.args.get("worker", "*")}) if line.what in EXCUSING else None


def _complete(ops: list[Op], excuses: list[Op], threads: dict[str, str], thread: str) -> list[Op]:
    """An admission without an answer may have got any id that another call names and no answer explains, or
    the id that a later call with the same key received. Ids that no call names are interchangeable, so each
    lost admission gets one of its own: with all of them, a search takes minutes instead of a second."""
    answered = {op.run for op in ops if op.what == "admit" and op.run is not None}
    named = {name for op in ops for name in (op.run, op.answer.get("active_run"))} - answered
    left = tuple(run for run, where in threads.items() if where == thread and run in named)
    done = [
        replace(op, candidates=(*left, *_of_key(op, ops), f"unseen-{number}"))
        if op.what == "admit" and op.run is None and op.outcome == "unknown"
        else op
        for number, op in enumerate(ops)
    ]
    workers = {op.worker for op in ops}
    return done + [op for op in excuses if op.args["who"] in workers | {"*"} | threads.keys()]


def _of_key(lost: Op, ops: list[Op]) -> tuple[str, ...]:
    key = key_of(lost)
    if key is None:
        return ()
    run_ids = (op.run for op in ops if op.what == "admit" and op.run is not None and key_of(op) == key)
    return tuple(dict.fromkeys(run_ids))


def plain(args: dict[str, Any]) -> dict[str, Any]:
    """`args` with the values as text, because states are compared and hashed."""
    return {
        name: json.dumps(value, sort_keys=True) if name in VALUES else value for name, value in args.items()
    }
