"""prune: remove what is old enough, a bounded piece at a time. Every step is one transaction.

Rows are visited in the order of an existing index (creation; audit id), each at most once
a pass: `cursor` is where the next step continues. So nothing is added to what a run writes, and a step
is bounded also where nothing may be removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.pruning import PruneCursor, Pruned, PruneStep, Retention
from stores.sql.codec import dumps
from stores.sql.sqlite.codec import IN_JSON
from stores.sql.sqlite.reading import last_run

_MICROS = 1_000_000


def prune(
    cx: sqlite3.Connection,
    now: int,
    keep: Retention,
    cursor: PruneCursor | None,
    limit: int,
    *,
    dry_run: bool,
) -> PruneStep:
    """One step: read `limit` rows, remove those that are old enough. See `PruningStore.prune`."""
    at = cursor or PruneCursor("runs")
    if at.stage == "runs":
        return _runs(cx, keep, at, limit, dry_run=dry_run, now=now)
    if at.stage == "transitions":
        return _transitions(cx, keep, at, limit, dry_run=dry_run, now=now)
    if at.stage == "webhooks":
        return _webhooks(cx, keep, limit, dry_run=dry_run, now=now)
    return _workers(cx, keep, limit, dry_run=dry_run, now=now)


_PAGE = (
    "SELECT run_id, created_us, settled_at, idempotency_key IS NULL,"
    f" run_id = {last_run('runs.thread_id')} FROM runs"
)
_UNDATED = f"{_PAGE} WHERE created_us IS NULL AND run_id > :run ORDER BY run_id LIMIT :limit"
_DATED = (
    f"{_PAGE} INDEXED BY runs_recent WHERE created_us >= :us AND created_us <= :before"
    " AND (created_us > :us OR run_id < :run) ORDER BY created_us, run_id DESC LIMIT :limit"
)
"""The index is (created_us DESC, run_id), read backwards."""
_LAST = "\U0010ffff"


def _runs(
    cx: sqlite3.Connection, keep: Retention, at: PruneCursor, limit: int, *, dry_run: bool, now: int
) -> PruneStep:
    """Runs that have settled; never the one from which its thread's status derives."""
    if keep.runs is None:
        return PruneStep(Pruned(), PruneCursor("transitions"))
    before = now - int(keep.runs * _MICROS)
    with_key = now - int(max(keep.runs, keep.keys) * _MICROS)
    if at.us is None:
        page = cx.execute(_UNDATED, {"run": at.run_id, "limit": limit}).fetchall()
        following = PruneCursor("runs", us=-(1 << 62), run_id=_LAST)
    else:
        where = {"us": at.us, "run": at.run_id, "before": before, "limit": limit}
        page = cx.execute(_DATED, where).fetchall()
        following = PruneCursor("transitions")
    gone = [
        run_id
        for run_id, _, settled, keyless, last in page
        if settled is not None and settled <= (before if keyless else with_key) and not last
    ]
    if len(page) == limit:
        following = PruneCursor("runs", us=page[-1][1], run_id=page[-1][0])
    return PruneStep(_remove_runs(cx, gone, dry_run=dry_run), following)


def _remove_runs(cx: sqlite3.Connection, run_ids: Sequence[str], *, dry_run: bool) -> Pruned:
    if not run_ids:
        return Pruned()
    ids = (dumps(run_ids),)
    if dry_run:
        (steps,) = cx.execute(f"SELECT count(*) FROM transitions WHERE run_id {IN_JSON}", ids).fetchone()
        return Pruned(runs=len(run_ids), transitions=steps)
    runs = cx.execute(f"DELETE FROM runs WHERE run_id {IN_JSON} AND settled_at IS NOT NULL", ids).rowcount
    steps = cx.execute(f"DELETE FROM transitions WHERE run_id {IN_JSON}", ids).rowcount
    return Pruned(runs=runs, transitions=steps)


def _transitions(
    cx: sqlite3.Connection, keep: Retention, at: PruneCursor, limit: int, *, dry_run: bool, now: int
) -> PruneStep:
    """The audit of runs that have settled. Ids grow with time: the first row that is too young ends the
    pass."""
    following = PruneCursor("workers")
    if keep.transitions is None:
        return PruneStep(Pruned(), following)
    before = now - int(keep.transitions * _MICROS)
    page = cx.execute(
        "SELECT id, at, NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = transitions.run_id"
        " AND settled_at IS NULL) FROM transitions WHERE id > ? ORDER BY id LIMIT ?",
        (at.id, limit),
    ).fetchall()
    gone = [step for step, when, over in page if when <= before and over]
    if len(page) == limit and page[-1][1] <= before:
        following = PruneCursor("transitions", id=page[-1][0])
    if gone and not dry_run:
        cx.execute(f"DELETE FROM transitions WHERE id {IN_JSON}", (dumps(gone),))
    return PruneStep(Pruned(transitions=len(gone)), following)


def _workers(cx: sqlite3.Connection, keep: Retention, limit: int, *, dry_run: bool, now: int) -> PruneStep:
    """Dead workers without runs in flight. The other functions treat a dead worker and a missing one
    alike."""
    following = PruneCursor("webhooks")
    if keep.workers is None:
        return PruneStep(Pruned(), following)
    rows = cx.execute(
        "SELECT epoch FROM workers WHERE state = 'dead' AND fenced_at <= ?"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE owner_epoch = workers.epoch AND holds_thread)"
        " AND NOT EXISTS (SELECT 1 FROM runs INDEXED BY runs_home WHERE home_epoch = workers.epoch"
        " AND status = 'pending' AND NOT holds_thread) ORDER BY epoch LIMIT ?",
        (now - int(keep.workers * _MICROS), -1 if dry_run else limit),
    ).fetchall()
    gone = [epoch for (epoch,) in rows]
    if gone and not dry_run:
        cx.execute(f"DELETE FROM workers WHERE epoch {IN_JSON}", (dumps(gone),))
    more = PruneCursor("workers") if len(gone) == limit and not dry_run else following
    return PruneStep(Pruned(workers=len(gone)), more)


def _webhooks(cx: sqlite3.Connection, keep: Retention, limit: int, *, dry_run: bool, now: int) -> PruneStep:
    """Delivered and dead webhooks, whether or not their runs still exist."""
    if keep.webhooks is None:
        return PruneStep(Pruned(), None)
    rows = cx.execute(
        "SELECT run_id FROM webhooks INDEXED BY webhooks_ended WHERE ended_at IS NOT NULL AND ended_at <= ?"
        " ORDER BY ended_at, run_id LIMIT ?",
        (now - int(keep.webhooks * _MICROS), -1 if dry_run else limit),
    ).fetchall()
    gone = [run_id for (run_id,) in rows]
    if gone and not dry_run:
        cx.execute(f"DELETE FROM webhooks WHERE run_id {IN_JSON}", (dumps(gone),))
    more = PruneCursor("webhooks") if len(gone) == limit and not dry_run else None
    return PruneStep(Pruned(webhooks=len(gone)), more)
