"""register, beat, fence_worker, sweep: which workers are alive, and what becomes of the runs of dead ones."""

from __future__ import annotations

import sqlite3

from stores.claims import UNCLAIMED
from stores.errors import StoreInUse
from stores.rows import Decision, DrainRequested, HandedOver, NewWorker, Orphan, Ownership, WorkerRow
from stores.sql.codec import OPEN_STATUSES, dumps, storable
from stores.sql.columns import Columns
from stores.sql.readable import readable
from stores.sql.sqlite import attempts
from stores.sql.sqlite.codec import ALIVE
from stores.sql.sqlite.decisions import end_children
from stores.sql.sqlite.guards import is_dead
from stores.sql.sqlite.orphans import Orphaned, orphaned
from stores.sql.sqlite.ownership import HELD
from stores.states import Cause, RunStatus, WorkerState
from stores.thread_states import noted_kind

ROLLBACK_ATTEMPTS = 3


def register(cx: sqlite3.Connection, now: int, worker: NewWorker) -> int:
    """Issue an epoch. Raises StoreInUse while a worker of another host may be alive: SQLite's locks
    do not reach across hosts."""
    other = cx.execute(
        "SELECT host, epoch, hb_seq, lease_until FROM workers WHERE state <> 'dead' AND lease_until > ?"
        " AND host <> ? AND boot_id <> ? ORDER BY epoch LIMIT 1",
        (now, worker.host, worker.boot_id),
    ).fetchone()
    if other is not None:
        host, epoch, hb_seq, lease_until = other
        raise StoreInUse(
            f"This SQLite store is in use by worker epoch {epoch} on host {host!r}; this is {worker.host!r}."
            " SQLite serves one host: use postgresql:// for several, or stop the workers there.",
            heartbeat=(epoch, hb_seq),
            lease_left=(lease_until - now) / 1e6,
        )
    (epoch,) = cx.execute(
        "INSERT INTO workers (worker_id, host, boot_id, pid, proof, version, state, ttl_ms, lease_until,"
        " started_at, assistants, admits_only)"
        " VALUES (?, ?, ?, ?, ?, ?, 'live', ?, ?, ?, ?, ?) RETURNING epoch",
        (
            worker.worker_id,
            worker.host,
            worker.boot_id,
            worker.pid,
            worker.proof,
            worker.version,
            worker.ttl_ms,
            now + worker.ttl_ms * 1000,
            now,
            dumps(worker.assistants),
            int(worker.admits_only),
        ),
    ).fetchone()
    return epoch


def bound_leases(cx: sqlite3.Connection, now: int) -> None:
    """Shorten every lease to what a renewal at this moment would make it: a longer one is from before the
    clock was set back. A live worker renews it. For a registration, which such a lease would keep out;
    reapers also judge by their own clock."""
    cx.execute(
        "UPDATE workers SET lease_until = :now + ttl_ms * 1000"
        " WHERE state <> 'dead' AND lease_until > :now + ttl_ms * 1000",
        {"now": now},
    )


_MINE = "epoch = :epoch AND state <> 'dead' AND (:worker_id IS NULL OR worker_id = :worker_id)"
"""The registration that this worker was issued the epoch with (NULL = whichever has it). Where the store has
lost that (a backup was restored), it may have issued the number again."""


def beat(cx: sqlite3.Connection, now: int, epoch: int, worker_id: str | None) -> bool:
    """Renew the lease. False = the worker is fenced: its epoch was declared dead, or is not its
    registration's."""
    row = cx.execute(
        "UPDATE workers SET hb_seq = hb_seq + 1, lease_until = :now + ttl_ms * 1000"
        f" WHERE {_MINE} RETURNING hb_seq",
        {"epoch": epoch, "worker_id": worker_id, "now": now},
    ).fetchone()
    return row is not None


def drain(cx: sqlite3.Connection, now: int, epoch: int) -> list[HandedOver]:
    """From here on this worker admits nothing, and its waiting portable runs have no home any more: both in
    one transaction, so that no portable run is admitted in between. Idempotent; a dead worker hands nothing
    over: the reaper does."""
    live = cx.execute(
        "UPDATE workers SET state = 'draining' WHERE epoch = :epoch AND state <> 'dead' RETURNING epoch",
        {"epoch": epoch},
    ).fetchone()
    if live is None:
        return []
    rows = cx.execute(
        "UPDATE runs SET home_epoch = NULL, updated_at = :now WHERE home_epoch = :epoch"
        " AND status = 'pending' AND NOT holds_thread AND portable RETURNING run_id, thread_id",
        {"epoch": epoch, "now": now},
    )
    return [HandedOver(*row) for row in rows.fetchall()]


def request_drain(
    cx: sqlite3.Connection, now: int, epoch: int | None, grace_ms: int | None
) -> list[DrainRequested]:
    """Records the request only; the worker itself does what a drain takes, so that it does not receive its
    own death before it knows that it drains."""
    rows = cx.execute(
        "UPDATE workers SET drain_asked_at = :now, drain_grace_ms = :grace WHERE state <> 'dead'"
        " AND (:epoch IS NULL OR epoch = :epoch) RETURNING epoch, state = 'draining'",
        {"now": now, "grace": grace_ms, "epoch": epoch},
    )
    return sorted(DrainRequested(requested, bool(already)) for requested, already in rows.fetchall())


def retire(cx: sqlite3.Connection, now: int, epoch: int, worker_id: str | None, error: str) -> list[Orphan]:
    """The worker gives up this epoch itself; its runs in flight are ended with `error`, except those that
    another worker may continue."""
    cx.execute(
        f"UPDATE workers SET state = 'dead', fenced_by = :epoch, fenced_at = :now WHERE {_MINE}",
        {"epoch": epoch, "worker_id": worker_id, "now": now},
    )
    runs = [run for run in orphaned(cx, now, before=None, only=epoch) if not attempts.waits(cx, run, now)]
    return _end_all(cx, runs, None, error, now)


def fence_worker(cx: sqlite3.Connection, now: int, epoch: int, hb_seq: int, by: int, *, proven: bool) -> bool:
    """Compare-and-set on the heartbeat that the caller watched. False = the worker lives (it renewed
    meanwhile).

    The lease must also have expired by the store's clock, unless death is `proven` by the operating
    system. From here on its writes are refused; the `sweep` that follows ends its runs.
    """
    row = cx.execute(
        "UPDATE workers SET state = 'dead', fenced_by = ?, fenced_at = ?"
        " WHERE epoch = ? AND hb_seq = ? AND state <> 'dead' AND (? OR lease_until < ?) RETURNING epoch",
        (by, now, epoch, hb_seq, int(proven), now),
    ).fetchone()
    return row is not None


def declare_dead(cx: sqlite3.Connection, now: int, epoch: int, by: int, actor: str) -> bool:
    """Declare a worker dead on the word of `actor`, whatever its heartbeat and its lease. The runs that the
    next `sweep` ends name `actor`. False = it is dead already, or was never registered."""
    row = cx.execute(
        "UPDATE workers SET state = 'dead', fenced_by = :by, fenced_at = :now, fenced_actor = :actor"
        " WHERE epoch = :epoch AND state <> 'dead' RETURNING epoch",
        {"epoch": epoch, "by": by, "now": now, "actor": storable(actor)},
    ).fetchone()
    return row is not None


def sweep(
    cx: sqlite3.Connection, now: int, by: int | None, error: str, *, before: int | None = None
) -> list[Orphan]:
    """End every run in flight whose owner (or, while waiting, home) is dead or missing.

    Undecided ones become `error`, except those that may have a further attempt (`attempts.sweep`); decided
    ones just settle. A half-done rollback is adopted by `by` with a new fence, at most ROLLBACK_ATTEMPTS
    times; then it fails and the thread is freed. What `by` has adopted and not settled yet is returned
    again: the first answer may be lost. Waiting portable runs are left for other workers to claim, for a
    while where none can (PATIENCE). `before` limits by created_at.
    """
    adopter = None if by is None or is_dead(cx, by) else by  # a zombie adopts nothing
    orphans = [] if adopter is None else _adopted_before(cx, adopter)
    continued, rest = attempts.sweep(cx, orphaned(cx, now, before=before, only=None), adopter, now)
    orphans += continued
    orphans += _end_all(cx, rest, adopter, error, now)
    cx.execute(
        "UPDATE runs INDEXED BY runs_tick SET settled_at = ?, updated_at = ? WHERE settled_at IS NULL"
        f" AND cancel_action IS NOT NULL AND NOT holds_thread AND owner_epoch NOT IN {ALIVE}",
        (now, now),
    )
    return orphans


def _end_all(
    cx: sqlite3.Connection, orphaned_runs: list[Orphaned], by: int | None, error: str, now: int
) -> list[Orphan]:
    orphans: list[Orphan] = []
    for run in orphaned_runs:
        ref = attempts.readable_ref(run.rollback_ref)
        if run.undo and _attempts(run.rollback_state) < ROLLBACK_ATTEMPTS and ref is not None:
            if by is not None:  # else the next reaper adopts it
                attempt = _attempts(run.rollback_state) + 1
                own = _adopt(cx, run.run_id, run.thread_id, by, attempt=attempt, now=now)
                status = RunStatus.stored(run.status)
                orphans.append(
                    Orphan(run.run_id, run.thread_id, status, run.epoch, own, ref[0], decided=True)
                )
        else:
            text = UNCLAIMED if run.unclaimed else f"{run.ordinal}{error}"
            final, children = _end(cx, run.run_id, text, run.epoch, undo=run.undo, now=now)
            noted = None if ref is None else ref[0]
            orphans.append(
                Orphan(
                    run.run_id,
                    run.thread_id,
                    final,
                    run.epoch,
                    rollback_ref=noted if noted_kind(noted) else None,
                    decided=run.decided,
                    children=children,
                )
            )
    return orphans


# What `rollback_state` counts attempts under: those of an adopter, which its reaper continues, and those
# of the owner, which settles the run itself.
ADOPTED, TRIED = "adopted", "tried"


def _attempts(state: str) -> int:
    word, _, number = state.partition(" ")
    return int(number) if word in (ADOPTED, TRIED) else 0


def _adopted_before(cx: sqlite3.Connection, by: int) -> list[Orphan]:
    rows = cx.execute(
        "SELECT run_id, thread_id, status, fence, rollback_ref FROM runs INDEXED BY runs_owner"
        " WHERE owner_epoch = ? AND holds_thread AND rollback_state LIKE 'adopted %'",
        (by,),
    ).fetchall()
    return [
        Orphan(
            run,
            thread,
            RunStatus.stored(status),
            None,
            Ownership(run, thread, by, fence),
            ref[0],
            decided=True,
        )
        for run, thread, status, fence, text in rows
        if (ref := attempts.readable_ref(text)) is not None
    ]


def _adopt(
    cx: sqlite3.Connection,
    run_id: str,
    thread_id: str,
    by: int,
    *,
    attempt: int,
    word: str = ADOPTED,
    now: int,
) -> Ownership:
    (fence,) = cx.execute(
        "UPDATE threads SET fence = fence + 1, updated_at = ? WHERE thread_id = ? RETURNING fence",
        (now, thread_id),
    ).fetchone()
    cx.execute(
        "UPDATE runs SET owner_epoch = ?, fence = ?, rollback_state = ?, updated_at = ? WHERE run_id = ?",
        (by, fence, f"{word} {attempt}", now, run_id),
    )
    return Ownership(run_id, thread_id, by, fence)


def readopt(cx: sqlite3.Connection, now: int, own: Ownership) -> Ownership | None:
    """The attempt of this owner, the first or an adopter, has failed: another one, counted in the row, with
    a new fence. Called again with the old fence, it returns the new one: the first answer may be lost.

    None = ROLLBACK_ATTEMPTS are used up, or the run is not this owner's any more.
    """
    row = cx.execute(
        "SELECT fence, COALESCE(rollback_state, '') FROM runs WHERE run_id = :run AND owner_epoch = :epoch"
        f" AND fence >= :fence AND holds_thread AND owner_epoch IN {ALIVE}",
        {"run": own.run_id, "epoch": own.epoch, "fence": own.fence},
    ).fetchone()
    if row is None:
        return None
    fence, state = row
    if fence > own.fence:
        return own._replace(fence=fence)
    if (attempts := _attempts(state) or 1) >= ROLLBACK_ATTEMPTS:
        return None
    word = ADOPTED if state.startswith(ADOPTED) else TRIED
    return _adopt(cx, own.run_id, own.thread_id, own.epoch, attempt=attempts + 1, word=word, now=now)


_DECLARED_BY = (
    "(SELECT 'worker epoch ' || epoch || ' was declared dead by ' || fenced_actor FROM workers"
    " WHERE epoch = :epoch)"
)


def _end(
    cx: sqlite3.Connection, run_id: str, error: str, epoch: int | None, *, undo: bool, now: int
) -> tuple[RunStatus, tuple[Decision, ...]]:
    row = cx.execute(
        "UPDATE runs SET"
        f" cancel_cause = CASE WHEN status IN {OPEN_STATUSES} THEN :cause ELSE cancel_cause END,"
        f" cancel_actor = CASE WHEN status IN {OPEN_STATUSES} THEN COALESCE({_DECLARED_BY}, :actor)"
        " ELSE cancel_actor END,"
        f" error = CASE WHEN status IN {OPEN_STATUSES} OR :undo THEN :error ELSE error END,"
        " rollback_state = CASE WHEN :undo THEN 'failed' ELSE rollback_state END,"
        f" status = CASE WHEN status IN {OPEN_STATUSES} THEN 'error' ELSE status END,"
        f" checkpoint_values = CASE WHEN checkpointed THEN {HELD} END,"
        " holds_thread = 0, settled_at = :now, ended_at = COALESCE(ended_at, :now), updated_at = :now"
        " WHERE run_id = :run RETURNING status",
        {
            "cause": Cause.orphaned.value,
            "epoch": epoch,
            "actor": None if epoch is None else f"worker epoch {epoch} is gone",
            "undo": int(undo),
            "error": f"Rollback failed {ROLLBACK_ATTEMPTS} times" if undo else storable(error),
            "now": now,
            "run": run_id,
        },
    ).fetchone()
    status = RunStatus.stored(row[0])
    return status, end_children(cx, run_id, status, now)


_WORKER_COLUMNS = (
    "epoch, worker_id, host, boot_id, pid, version, state, hb_seq, ttl_ms, lease_until, fenced_by,"
    " started_at, proof, admits_only"
)

_COUNTS = (
    "(SELECT count(*) FROM runs WHERE owner_epoch = epoch AND holds_thread),"
    " (SELECT count(*) FROM runs INDEXED BY runs_tick"
    " WHERE owner_epoch = epoch AND settled_at IS NULL AND cancel_action IS NOT NULL)"
)


def workers(cx: sqlite3.Connection, now: int, *, alive_only: bool, counted: bool) -> list[WorkerRow]:
    """Workers, oldest first; `counted`: with the numbers of threads that each holds, and of its runs that are
    stopping."""
    counts = _COUNTS if counted else "0, 0"
    where = "WHERE state <> 'dead'" if alive_only else ""
    rows = cx.execute(f"SELECT {_WORKER_COLUMNS}, {counts} FROM workers {where} ORDER BY epoch")
    return readable("worker", rows, lambda row: _worker(row, now))


def _worker(row: Columns, now: int) -> WorkerRow:
    return WorkerRow(
        epoch=row[0],
        worker_id=row[1],
        host=row[2],
        boot_id=row[3],
        pid=row[4],
        version=row[5],
        state=WorkerState.stored(row[6]),
        hb_seq=row[7],
        ttl_ms=row[8],
        lease_until=row[9],
        fenced_by=row[10],
        started_at=row[11],
        proof=row[12],
        admits_only=bool(row[13]),
        holding=row[14],
        stopping=row[15],
        expired=row[9] < now,
    )
