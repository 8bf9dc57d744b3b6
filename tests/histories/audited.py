"""Properties that the store's audit proves alone. Its lines are in commit order, so no clock is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from stores.rows import RunRow, Transition
from stores.states import OPEN, TERMINAL, Cause, may_become
from tests.histories.audit import Audit
from tests.histories.findings import Finding

OWNERS_WRITES = frozenset({"admitted", "queued", "claimed", "started"})
"""Only a live owner writes these, and `finished` with a success. A reaper may write any other transition."""


def of_audit(audit: Audit) -> Iterator[Finding]:
    lines = sorted(audit.transitions, key=lambda line: line.id)
    by_thread: dict[str, list[Transition]] = defaultdict(list)
    for line in lines:
        by_thread[line.thread_id].append(line)
    rows = {row.run_id: row for row in audit.runs}
    for thread, its_lines in by_thread.items():
        final = [row.fence for row in audit.threads if row.thread_id == thread]
        yield from one_holder(thread, its_lines)
        yield from fences_grow(thread, its_lines, final)
        yield from first_in_first_out(thread, its_lines, rows)
    yield from one_decision(lines)
    yield from no_write_of_a_dead_worker(lines)
    yield from rows_agree(lines, audit.runs)
    yield from one_run_per_key(audit.runs)


def one_holder(thread: str, lines: Sequence[Transition]) -> Iterator[Finding]:
    holder: Transition | None = None
    for line in lines:
        if line.holds_thread and holder is not None and holder.run_id != line.run_id:
            what = f"run {line.run_id} took the thread while run {holder.run_id} held it"
            yield Finding("holding never overlaps", what, _texts(holder, line), thread, line.run_id)
        if line.holds_thread:
            holder = line
        elif holder is not None and holder.run_id == line.run_id:
            holder = None


def fences_grow(thread: str, lines: Sequence[Transition], final: Sequence[int]) -> Iterator[Finding]:
    """Each claim and each adoption of the thread has a greater fence than all earlier ones."""
    last: Transition | None = None
    for line in lines:
        taken = line.what in ("claimed", "adopted", "fenced") or (
            line.what == "admitted" and line.holds_thread
        )
        if not taken:
            continue
        if last is not None and line.fence <= last.fence:
            what = f"fence {line.fence} was issued after fence {last.fence}"
            yield Finding("fences only grow", what, _texts(last, line), thread, line.run_id)
        if last is None or line.fence > last.fence:
            last = line
    for fence in final:
        if last is not None and fence < last.fence:
            what = f"the thread is at fence {fence}, although {last.fence} was issued"
            yield Finding("fences only grow", what, _texts(last), thread, last.run_id)


def one_decision(lines: Iterable[Transition]) -> Iterator[Finding]:
    decided: dict[str, Transition] = {}
    for line in lines:
        first = decided.get(line.run_id)
        if first is not None and line.to_status != first.to_status:
            what = f"it was decided {first.to_status}, then it was {line.to_status}"
            yield Finding("one decision per run", what, _texts(first, line), line.thread_id, line.run_id)
        elif not _legal(line):
            what = f"it went from {line.from_status} to {line.to_status}"
            yield Finding("one decision per run", what, _texts(line), line.thread_id, line.run_id)
        if first is None and line.to_status in TERMINAL:
            decided[line.run_id] = line


def _legal(line: Transition) -> bool:
    old, new = line.from_status, line.to_status
    return old is None or old == new or may_become(old, new)


def first_in_first_out(
    thread: str, lines: Sequence[Transition], rows: dict[str, RunRow]
) -> Iterator[Finding]:
    """No run takes the thread while a run that was admitted earlier is queued."""
    waiting: dict[str, tuple[int, Transition]] = {}
    for line in lines:
        row = rows.get(line.run_id)
        if line.what == "queued":
            waiting[line.run_id] = (row.seq if row else line.id, line)
        elif line.what in ("claimed", "admitted") and line.holds_thread:
            mine = waiting.pop(line.run_id, None)
            earlier = [other for seq, other in waiting.values() if mine is None or seq < mine[0]]
            for other in earlier:
                what = f"run {line.run_id} took the thread before run {other.run_id}, which had waited longer"
                yield Finding("queue order = start order", what, _texts(other, line), thread, line.run_id)
        elif line.to_status in TERMINAL:
            waiting.pop(line.run_id, None)


def no_write_of_a_dead_worker(lines: Iterable[Transition]) -> Iterator[Finding]:
    """An epoch is dead from the moment when one of its runs was ended as an orphan or adopted."""
    dead_since: dict[int, Transition] = {}
    owner: dict[str, int | None] = {}
    for line in lines:
        death = dead_since.get(line.epoch) if line.epoch is not None else None
        late = line.what in OWNERS_WRITES or (line.what == "finished" and line.to_status == "success")
        if death is not None and late:
            what = f"epoch {line.epoch} was declared dead, and yet its write '{line.what}' was accepted"
            yield Finding("no write of a dead worker", what, _texts(death, line), line.thread_id, line.run_id)
        before = owner.get(line.run_id)
        if line.what == "adopted" and before is not None and before != line.epoch:
            dead_since.setdefault(before, line)
        elif line.what in ("finished", "decided") and line.cause is Cause.orphaned and line.epoch is not None:
            dead_since.setdefault(line.epoch, line)
        owner[line.run_id] = line.epoch


def rows_agree(lines: Iterable[Transition], rows: Iterable[RunRow]) -> Iterator[Finding]:
    """The last transition of a run and its row agree."""
    last = {line.run_id: line for line in lines}
    for row in rows:
        line = last.get(row.run_id)
        if line is not None and (line.to_status, line.holds_thread) != (row.status, row.holds_thread):
            what = f"the row has {row.status}, holding {row.holds_thread}; the audit differs"
            yield Finding("audit = rows", what, _texts(line), row.thread_id, row.run_id)


def one_run_per_key(rows: Iterable[RunRow]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], RunRow] = {}
    for row in rows:
        if row.idempotency_key is None:
            continue
        key = (row.user_id or "", row.thread_id, row.idempotency_key)
        other = first.setdefault(key, row)
        if other.run_id != row.run_id:
            what = f"key {row.idempotency_key!r} has the runs {other.run_id} and {row.run_id}"
            yield Finding("one run per idempotency key", what, (), row.thread_id, row.run_id)


def settled_in_time(audit: Audit, last_fault: int | None, bound: float) -> Iterator[Finding]:
    """At the end no run is in flight. A run that was decided, or that lost its owner, has settled within
    `bound` (s) of that moment, or of the last fault if that is later. `last_fault` (us) is a time of the
    store's clock."""
    limit = round(bound * 1e6)
    decided = {line.run_id: line for line in audit.transitions if line.what == "decided"}
    for row in audit.runs:
        if row.status in OPEN or row.holds_thread or (row.settled_at is None and row.owner_epoch is not None):
            what = f"it is still in flight: {row.status}, holding {row.holds_thread}"
            yield Finding("everything settles", what, (), row.thread_id, row.run_id)
            continue
        line = decided.get(row.run_id)
        due = [line.at] if line is not None else []
        if last_fault is not None and (line is not None or row.cancel_cause is Cause.orphaned):
            due.append(last_fault)
        if due and row.settled_at is not None and row.settled_at > max(due) + limit:
            late = (row.settled_at - max(due)) / 1e6
            what = f"it settled {late:.3f} s after it was due, the bound is {bound:g} s"
            yield Finding("everything settles", what, _texts(line), row.thread_id, row.run_id)


def overtaken(audit: Audit) -> tuple[set[int], set[str]]:
    """Returns the epochs that a peer declared dead, and the runs whose fence was made stale."""
    dead = {worker.epoch for worker in audit.workers if worker.fenced_by not in (None, worker.epoch)}
    stale = {line.run_id for line in audit.transitions if line.what in ("fenced", "adopted")}
    return dead, stale


def _texts(*lines: Transition | None) -> tuple[str, ...]:
    return tuple(
        f"transition {line.id} @{line.at} {line.what} run {line.run_id} {line.from_status or '-'} ->"
        f" {line.to_status} holds={line.holds_thread} epoch {line.epoch} fence {line.fence}"
        + (f" cause {line.cause}" if line.cause else "")
        for line in lines
        if line is not None
    )
