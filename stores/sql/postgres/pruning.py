"""prune: remove what is old enough, a bounded piece at a time. See functions/7_pruning.sql."""

from __future__ import annotations

from stores.pruning import PruneCursor, Pruned, PruneStep, Retention
from stores.sql.postgres.calls import Call, Function, Query, Rows

_MICROS = 1_000_000
_FIRST = -(1 << 62)
_LAST = "\U0010ffff"
_NOTHING = Query("SELECT")


def prune(
    now: int | None, keep: Retention, cursor: PruneCursor | None, limit: int, *, dry_run: bool
) -> Call[PruneStep]:
    """One step: read `limit` rows, remove those that are old enough. See `PruningStore.prune`."""
    at = cursor or PruneCursor("runs")
    if at.stage == "runs":
        return _runs(keep, at, limit, dry_run=dry_run, now=now)
    if at.stage == "transitions":
        return _transitions(keep, at, limit, dry_run=dry_run, now=now)
    if at.stage == "webhooks":
        return _webhooks(keep, limit, dry_run=dry_run, now=now)
    return _workers(keep, limit, dry_run=dry_run, now=now)


_RUNS = Function(
    "prune_runs",
    ("bigint", "text", "bigint", "bigint", "bigint", "boolean", "bigint"),
    "runs, transitions, last_us, last_run_id, more",
)


def _runs(keep: Retention, at: PruneCursor, limit: int, *, dry_run: bool, now: int | None) -> Call[PruneStep]:
    following = PruneCursor("transitions")
    if keep.runs is None:
        return _skip(following)
    if at.us is None:
        following = PruneCursor("runs", us=_FIRST, run_id=_LAST)
    ages = (int(keep.runs * _MICROS), int(max(keep.runs, keep.keys) * _MICROS))

    def answer(rows: Rows) -> PruneStep:
        runs, transitions, last_us, last_run_id, more = rows[0]
        ahead = PruneCursor("runs", us=last_us, run_id=last_run_id) if more else following
        return PruneStep(Pruned(runs=runs, transitions=transitions), ahead)

    return Call(_RUNS, (at.us, at.run_id, *ages, limit, dry_run, now), answer)


_TRANSITIONS = Function(
    "prune_transitions", ("bigint", "bigint", "bigint", "boolean", "bigint"), "transitions, last_id, more"
)


def _transitions(
    keep: Retention, at: PruneCursor, limit: int, *, dry_run: bool, now: int | None
) -> Call[PruneStep]:
    following = PruneCursor("workers")
    if keep.transitions is None:
        return _skip(following)

    def answer(rows: Rows) -> PruneStep:
        removed, last_id, more = rows[0]
        return PruneStep(
            Pruned(transitions=removed), PruneCursor("transitions", id=last_id) if more else following
        )

    return Call(_TRANSITIONS, (at.id, int(keep.transitions * _MICROS), limit, dry_run, now), answer)


_WORKERS = Function("prune_workers", ("bigint", "bigint", "boolean", "bigint"))


def _workers(keep: Retention, limit: int, *, dry_run: bool, now: int | None) -> Call[PruneStep]:
    following = PruneCursor("webhooks")
    if keep.workers is None:
        return _skip(following)

    def answer(rows: Rows) -> PruneStep:
        removed = rows[0][0]
        more = PruneCursor("workers") if removed == limit and not dry_run else following
        return PruneStep(Pruned(workers=removed), more)

    return Call(_WORKERS, (int(keep.workers * _MICROS), limit, dry_run, now), answer)


_WEBHOOKS = Function("prune_webhooks", ("bigint", "bigint", "boolean", "bigint"))


def _webhooks(keep: Retention, limit: int, *, dry_run: bool, now: int | None) -> Call[PruneStep]:
    if keep.webhooks is None:
        return _skip(None)

    def answer(rows: Rows) -> PruneStep:
        removed = rows[0][0]
        more = PruneCursor("webhooks") if removed == limit and not dry_run else None
        return PruneStep(Pruned(webhooks=removed), more)

    return Call(_WEBHOOKS, (int(keep.webhooks * _MICROS), limit, dry_run, now), answer)


def _skip(following: PruneCursor | None) -> Call[PruneStep]:
    return Call(_NOTHING, (), lambda _: PruneStep(Pruned(), following))
