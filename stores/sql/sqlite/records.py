"""The record operations of the gateways' own stores, on the same table."""

from __future__ import annotations

import sqlite3

from stores.errors import RunNotFound, StaleFence
from stores.json_values import JsonMapping, JsonObject
from stores.rows import COUNTERS, MESSAGES, Ownership
from stores.spec import RECORDED
from stores.sql.codec import (
    OPEN_STATUSES,
    dumps,
    loads,
    model_name_of,
    record_writer,
    storable,
)
from stores.sql.conditions import IN_FLIGHT, WAITS
from stores.sql.sqlite.codec import IN_FLIGHT_RUNS
from stores.sql.sqlite.decisions import end_children
from stores.sql.sqlite.guards import LIVE
from stores.sql.sqlite.thread_states import leave
from stores.states import OPEN, RunStatus
from stores.times import iso, stamp

_OWN_COLUMNS = (
    "run_id",
    "status",
    "error",
    "created_at",
    "created_us",
    "settled_at",
    "ended_at",
    "updated_at",
)
_COLUMNS = (*_OWN_COLUMNS, *RECORDED)
_OVERWRITTEN = [name for name in RECORDED if name not in ("thread_id", "user_id")]
_PUT = (
    f"INSERT INTO runs ({', '.join(_COLUMNS)}, seq)"
    f" SELECT {', '.join(f':{name}' for name in _COLUMNS)}, next_seq"
    " FROM threads WHERE thread_id = :thread_id"
    " ON CONFLICT (run_id) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _OVERWRITTEN)},"
    " user_id = COALESCE(excluded.user_id, runs.user_id),"
    " created_at = excluded.created_at, created_us = excluded.created_us, updated_at ="
    " excluded.updated_at,"
    f" error = CASE WHEN runs.status IN {OPEN_STATUSES} OR runs.status = excluded.status"
    " THEN excluded.error ELSE runs.error END,"
    f" settled_at = CASE WHEN runs.status IN {OPEN_STATUSES} AND runs.owner_epoch IS NULL"
    " THEN excluded.settled_at ELSE runs.settled_at END,"
    f" ended_at = CASE WHEN runs.status IN {OPEN_STATUSES} THEN excluded.ended_at ELSE runs.ended_at END,"
    f" status = CASE WHEN runs.status = 'pending' OR (runs.status = 'running' AND excluded.status NOT IN"
    f" {OPEN_STATUSES}) THEN excluded.status ELSE runs.status END"
)
_write_record = record_writer(storable)


def put(cx: sqlite3.Connection, now: int, run_id: str, fields: JsonMapping) -> None:
    """Upsert of a record (import, repair). A stored terminal status stays, and a run that has an owner
    is settled by it. The thread is left to the first user who is admitted."""
    cx.execute(
        "INSERT INTO threads (thread_id, fence, next_seq, created_at, updated_at) VALUES (:thread,"
        " COALESCE((SELECT fence FROM deleted_threads WHERE thread_id = :thread), 0), 1, :now, :now)"
        " ON CONFLICT (thread_id) DO UPDATE SET next_seq = next_seq + 1",
        {"thread": fields["thread_id"], "now": now},
    )
    status = RunStatus(fields.get("status") or RunStatus.pending).value
    settled = None if status in OPEN else now
    created_at, created_us = stamp(fields.get("created_at") or str(iso(now)))
    cx.execute(
        _PUT,
        {
            **_write_record(fields),
            "run_id": run_id,
            "status": status,
            "error": storable(fields.get("error")),
            "created_at": created_at,
            "created_us": created_us,
            "settled_at": settled,
            "ended_at": settled,
            "updated_at": now,
        },
    )
    _set_fields(cx, run_id, fields, now)


def update_status(cx: sqlite3.Connection, now: int, run_id: str, status: str, error: str | None) -> bool:
    """False where no row took the status: the row does not exist, another decision stands, or the status is
    `running` and the run waits for its turn. Repeating a terminal status changes nothing."""
    if _taken_away(cx, run_id):
        return False
    allowed = OPEN_STATUSES if status != RunStatus.pending else "('pending')"
    row = cx.execute(
        f"UPDATE runs SET error = CASE WHEN status IN {OPEN_STATUSES} THEN COALESCE(:error, error) ELSE"
        " error END,"
        " updated_at = :now, status = :status,"
        " started_at = CASE WHEN :status = 'running' THEN COALESCE(started_at, :now) ELSE started_at END,"
        " ended_at = CASE WHEN :ended THEN COALESCE(ended_at, :now) ELSE ended_at END,"
        " settled_at ="
        " CASE WHEN :ended AND owner_epoch IS NULL THEN COALESCE(settled_at, :now) ELSE settled_at END"
        f" WHERE run_id = :run AND (status IN {allowed} OR status = :status)"
        f" AND NOT (:status = 'running' AND {WAITS}) RETURNING run_id",
        {
            "status": status,
            "error": storable(error),
            "now": now,
            "ended": int(status not in OPEN),
            "run": run_id,
        },
    ).fetchone()
    if row is not None and status not in OPEN:
        end_children(cx, run_id, RunStatus(status), now)
    return row is not None


def _taken_away(cx: sqlite3.Connection, run_id: str) -> bool:
    """In flight when its owner was declared dead. Whatever still arrives for it was written by a zombie,
    perhaps in a batch that had queued up before the pause."""
    row = cx.execute(
        "SELECT 1 FROM runs JOIN workers ON epoch = owner_epoch WHERE run_id = ? AND state = 'dead'"
        " AND fenced_by <> epoch AND (settled_at IS NULL OR settled_at >= fenced_at)",
        (run_id,),
    ).fetchone()
    return row is not None


def update_model_name(cx: sqlite3.Connection, now: int, run_id: str, model_name: str | None) -> bool:
    if _taken_away(cx, run_id):
        return False
    row = cx.execute(
        "UPDATE runs SET model_name = ?, updated_at = ? WHERE run_id = ? RETURNING run_id",
        (model_name_of(model_name), now, run_id),
    ).fetchone()
    return row is not None


def update_completion(
    cx: sqlite3.Connection, now: int, run_id: str, status: str | None, fields: JsonMapping
) -> bool:
    """Final counters, and the status unless another terminal one stands or the run was
    taken away from its owner: then False, and nothing changes."""
    if _taken_away(cx, run_id):
        return False
    if status is None:
        row = cx.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            return False
    elif status == RunStatus.running.value:
        row = cx.execute(
            f"SELECT 1 FROM runs WHERE run_id = ? AND status IN {OPEN_STATUSES}",
            (run_id,),
        ).fetchone()
        if row is None:
            return False
    elif not update_status(cx, now, run_id, status, fields.get("error")):
        return False
    _set_fields(cx, run_id, {**fields, "error": None}, now)
    return True


def update_progress(cx: sqlite3.Connection, now: int, run_id: str, fields: JsonMapping) -> bool:
    """A snapshot while running; omitted and None fields stay. False = not running."""
    running = cx.execute("SELECT 1 FROM runs WHERE run_id = ? AND status = 'running'", (run_id,)).fetchone()
    if running is None or _taken_away(cx, run_id):
        return False
    _set_fields(cx, run_id, fields, now)
    return True


def update_extra(
    cx: sqlite3.Connection, now: int, run_id: str, extra: JsonObject, *, user_id: str | None, max_bytes: int
) -> JsonObject | None:
    """See `CatalogueStore.update_extra`."""
    row = cx.execute(
        "SELECT extra FROM runs WHERE run_id = :run AND kind = 'run' AND (:user IS NULL OR user_id = :user)",
        {"run": run_id, "user": user_id},
    ).fetchone()
    if row is None:
        raise RunNotFound(run_id)
    merged = {**loads(row[0]), **extra}
    if len(text := dumps(merged)) > max_bytes:
        return None
    cx.execute("UPDATE runs SET extra = ?, updated_at = ? WHERE run_id = ?", (text, now, run_id))
    return merged


def _set_fields(cx: sqlite3.Connection, run_id: str, fields: JsonMapping, now: int) -> None:
    known = {name: fields[name] for name in COUNTERS if fields.get(name) is not None}
    known.update({name: storable(fields[name]) for name in MESSAGES if fields.get(name) is not None})
    if known:
        assignments = ", ".join(f"{name} = ?" for name in known)
        cx.execute(
            f"UPDATE runs SET {assignments}, updated_at = ? WHERE run_id = ?",
            (*known.values(), now, run_id),
        )


def delete(cx: sqlite3.Connection, now: int, run_id: str) -> None:  # noqa: ARG001 - every transaction gets a clock
    """Remove the record and its audit. Deleting an unknown id is silent; deleting a run in flight notifies no
    worker."""
    cx.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
    cx.execute("DELETE FROM webhooks WHERE run_id = ? AND state = 'waiting'", (run_id,))
    cx.execute("DELETE FROM transitions WHERE run_id = ?", (run_id,))


def delete_thread(cx: sqlite3.Connection, now: int, own: Ownership) -> None:
    """Remove a thread with all its runs, as the operation that holds it; the operation itself stays,
    settled, and frees nothing that still exists. Runs in flight were admitted after the operation: they
    stay, with a thread that holds nothing. Its state outside of this store is left to be removed. Called
    again, it does nothing. Raises StaleFence."""
    row = cx.execute(
        "SELECT status, holds_thread FROM runs WHERE run_id = ? AND owner_epoch = ? AND fence = ?"
        f" AND {LIVE}",
        (own.run_id, own.epoch, own.fence),
    ).fetchone()
    if row == (RunStatus.success, 0):
        return
    if row is None or not row[1] or row[0] not in OPEN:
        raise StaleFence(own.thread_id, own.fence)
    cx.execute(
        "DELETE FROM transitions WHERE run_id IN"
        f" (SELECT run_id FROM runs WHERE thread_id = ? AND NOT {IN_FLIGHT})",
        (own.thread_id,),
    )
    cx.execute(f"DELETE FROM runs WHERE thread_id = ? AND NOT {IN_FLIGHT}", (own.thread_id,))
    cx.execute(
        "UPDATE runs SET status = 'success', checkpointed = 0, holds_thread = 0, settled_at = :now,"
        " ended_at = :now, updated_at = :now WHERE run_id = :run",
        {"now": now, "run": own.run_id},
    )
    leave(cx, now, own.thread_id, own.fence)
    if cx.execute(
        f"SELECT 1 FROM {IN_FLIGHT_RUNS} WHERE thread_id = ? AND {IN_FLIGHT}", (own.thread_id,)
    ).fetchone():
        _empty_thread(cx, own.thread_id, now)
    else:
        _remove_thread(cx, own.thread_id)


def _empty_thread(cx: sqlite3.Connection, thread_id: str, now: int) -> None:
    """The thread stays for its runs in flight, as if they had created it."""
    cx.execute(
        "UPDATE threads SET metadata = '{}', \"values\" = NULL, interrupts = NULL, created_at = :now,"
        " state_updated_at = NULL, ttl_ms = CASE WHEN temporary THEN ttl_ms END, updated_at = :now"
        " WHERE thread_id = :thread",
        {"now": now, "thread": thread_id},
    )


def _remove_thread(cx: sqlite3.Connection, thread_id: str) -> None:
    """Remove the thread and its crons; its fence is kept."""
    cx.execute(
        "INSERT INTO deleted_threads (thread_id, fence)"
        " SELECT thread_id, fence FROM threads WHERE thread_id = ?"
        " ON CONFLICT (thread_id) DO UPDATE SET fence = excluded.fence",
        (thread_id,),
    )
    cx.execute("DELETE FROM threads WHERE thread_id = ?", (thread_id,))
    cx.execute("DELETE FROM crons WHERE thread_id = ?", (thread_id,))
