"""Event logs in the store. See `stores.events`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.events import EventPage, EventsKept, Kept, NewEvents, Position

_RENEWED_BY = 16
"""A log's expiry is moved by a sixteenth of its time to live at least, so that its index is rarely
written."""

_OWNER = (
    "SELECT r.fence = :fence AND EXISTS"
    " (SELECT 1 FROM workers w WHERE w.epoch = r.owner_epoch AND w.state <> 'dead'),"
    " EXISTS (SELECT 1 FROM event_logs l WHERE l.run_id = r.run_id AND l.fence > :fence)"
    " FROM runs r WHERE r.run_id = :run"
)
"""Does the writer own the run, and is the stored log of a later fence?"""
_INSERT = (
    "INSERT INTO run_events (run_id, fence, number, mode, json) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id, fence, number) DO NOTHING"
)
_HEADER = (
    "INSERT INTO event_logs (run_id, fence, number, bytes, expires_at, followed_until)"
    " VALUES (:run, :fence, :number, :bytes, :end, 0) ON CONFLICT (run_id) DO UPDATE SET"
    " fence = :fence, number = CASE WHEN fence = :fence THEN max(number, :number) ELSE :number END,"
    " bytes = bytes + :bytes,"
    " expires_at = CASE WHEN :end - expires_at >= :step THEN :end ELSE expires_at END"
    " RETURNING followed_until"
)


def append(cx: sqlite3.Connection, now: int, logs: Sequence[NewEvents], ttl_us: int) -> list[EventsKept]:
    return [_append(cx, log, ttl_us, now) for log in logs]


def _append(cx: sqlite3.Connection, log: NewEvents, ttl_us: int, now: int) -> EventsKept:
    mine, ahead = cx.execute(_OWNER, {"fence": log.fence, "run": log.run_id}).fetchone() or (None, False)
    if not mine:
        return EventsKept(Kept.gone if mine is None else Kept.stale, followed=False)
    if not log.entries:
        return EventsKept(Kept.done, followed=False)
    added = 0
    for entry in log.entries:
        if cx.execute(_INSERT, (log.run_id, log.fence, *entry)).rowcount:
            added += len(entry[2])
    if ahead:
        added -= _remove(cx, log, "fence > ?", log.fence)
    if log.floor > (0, 0):
        added -= _remove(cx, log, "(fence, number) < (?, ?)", *log.floor)
    (until,) = cx.execute(
        _HEADER,
        {
            "run": log.run_id,
            "fence": log.fence,
            "number": log.entries[-1][0],
            "bytes": added,
            "end": now + ttl_us,
            "step": ttl_us // _RENEWED_BY,
        },
    ).fetchone()
    return EventsKept(Kept.done, followed=until > now)


def _remove(cx: sqlite3.Connection, log: NewEvents, which: str, *bound: int) -> int:
    """Removes events below the floor, or events of later fences that a restored store contains. Returns their
    bytes."""
    where = f"WHERE run_id = ? AND {which}"
    size: int
    (size,) = cx.execute(
        f"SELECT COALESCE(sum(length(json)), 0) FROM run_events {where}", (log.run_id, *bound)
    ).fetchone()
    cx.execute(f"DELETE FROM run_events {where}", (log.run_id, *bound))
    return size


def events(
    cx: sqlite3.Connection, run_id: str, after: Position | None, limit: int, max_bytes: int
) -> EventPage:
    page, size = list[tuple[int, int, str, str]](), 0
    rows = cx.execute(
        "SELECT fence, number, mode, json FROM run_events WHERE run_id = ? AND (fence, number) > (?, ?)"
        " ORDER BY fence, number LIMIT ?",
        (run_id, *(after or (-1, 0)), limit),
    )
    for row in rows:
        page.append(row)
        size += len(row[3])
        if size >= max_bytes:
            break
    rows.close()
    return EventPage(tuple(page), tops(cx, [run_id]).get(run_id))


def tops(cx: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, Position]:
    positions = dict[str, Position]()
    for run_id in run_ids:
        row = cx.execute(
            "SELECT fence, number FROM event_logs WHERE run_id = ? AND number > 0", (run_id,)
        ).fetchone()
        if row is not None:
            positions[run_id] = row
    return positions


def version(cx: sqlite3.Connection) -> int:
    """Changes with every commit of another connection."""
    data_version: int = cx.execute("PRAGMA data_version").fetchone()[0]
    return data_version


_MARK = (
    "INSERT INTO event_logs (run_id, fence, number, bytes, expires_at, followed_until)"
    " SELECT run_id, fence, 0, 0, :until, :until FROM runs WHERE run_id = :run AND settled_at IS NULL"
    " ON CONFLICT (run_id) DO UPDATE SET followed_until = max(followed_until, :until),"
    " expires_at = max(expires_at, :until)"
)
_USE = (
    "UPDATE threads SET updated_at = max(updated_at, :until - ttl_ms * 1000) WHERE ttl_ms IS NOT NULL"
    " AND updated_at + ttl_ms * 1000 < :until AND thread_id ="
    " (SELECT thread_id FROM runs WHERE run_id = :run AND settled_at IS NOT NULL)"
)
"""A thread with a TTL is removed so long after its last use."""


def follow(cx: sqlite3.Connection, now: int, run_ids: Sequence[str], seconds_us: int, *, logs: bool) -> None:
    for run_id in sorted(run_ids):
        named: dict[str, object] = {"run": run_id, "until": now + seconds_us}
        cx.execute(_USE, named)
        if logs:
            cx.execute(_MARK, named)


def expire(cx: sqlite3.Connection, now: int, limit: int, max_bytes: int | None) -> int:
    removed = 0
    for (run_id,) in cx.execute(
        "SELECT run_id FROM event_logs WHERE expires_at <= ? ORDER BY expires_at, run_id LIMIT ?",
        (now, limit),
    ).fetchall():
        room = limit - removed
        gone = cx.execute(
            "DELETE FROM run_events WHERE run_id = ? AND (fence, number) IN (SELECT fence, number"
            " FROM run_events WHERE run_id = ? ORDER BY fence, number LIMIT ?)",
            (run_id, run_id, room),
        ).rowcount
        removed += gone
        if gone < room:
            cx.execute("DELETE FROM event_logs WHERE run_id = ?", (run_id,))
        if removed >= limit:
            break
    if max_bytes is not None:
        _bound(cx, max_bytes, now)
    return removed


_EXCESS = (
    "UPDATE event_logs SET expires_at = :now WHERE run_id IN (SELECT run_id FROM (SELECT run_id,"
    " sum(bytes) OVER (ORDER BY expires_at DESC, run_id DESC) AS kept FROM event_logs"
    " WHERE expires_at > :now AND bytes > 0) WHERE kept > :max)"
)


def _bound(cx: sqlite3.Connection, max_bytes: int, now: int) -> None:
    (total,) = cx.execute(
        "SELECT COALESCE(sum(bytes), 0) FROM event_logs WHERE expires_at > ?", (now,)
    ).fetchone()
    if total > max_bytes:
        cx.execute(_EXCESS, {"now": now, "max": max_bytes})
