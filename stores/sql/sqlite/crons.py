"""Crons: requests that are repeated, and when each is next due. See `stores.crons`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stores.crons import CronQuery, CronRow, DueCrons, Firing
from stores.errors import CronFired, ThreadNotFound, TooManyCrons
from stores.json_values import JsonObject
from stores.pages import Cutter, Page
from stores.sql.codec import CRON_COLUMNS, CRON_TEXTS, CRON_VALUES, cron_row, cron_values, dumps, storable
from stores.sql.readable import readable
from stores.sql.sqlite.contains import containing

_WRITTEN = ", ".join(CRON_VALUES)
_SAME = " AND ".join(f"{name} IS :{name}" for name in CRON_VALUES if name not in ("enabled", "next_at"))
"""A cron that is created again with the same id and values is the same cron, whatever its state."""


def create(
    cx: sqlite3.Connection, now: int, cron: CronRow, *, thread_must_exist: bool, limit: int | None
) -> CronRow:
    """`limit`: how many its user may have, this one included. Raises ThreadNotFound, TooManyCrons."""
    if cron.thread_id is not None:
        thread = cx.execute("SELECT user_id FROM threads WHERE thread_id = ?", (cron.thread_id,)).fetchone()
        foreign = thread is not None and cron.user_id is not None and thread[0] != cron.user_id
        if foreign or (thread is None and thread_must_exist):
            raise ThreadNotFound(cron.thread_id)
    made_before = cx.execute(
        f"SELECT {CRON_COLUMNS} FROM crons WHERE cron_id = :cron_id AND {_SAME}",
        dict(zip(CRON_VALUES, cron_values(cron), strict=True)),
    ).fetchone()
    if made_before is not None:
        return cron_row(made_before)
    _check_user_limit(cx, cron.user_id, limit)
    row = cx.execute(
        f"INSERT INTO crons ({_WRITTEN}, created_at, updated_at)"
        f" VALUES ({', '.join('?' * len(CRON_VALUES))}, ?, ?) RETURNING {CRON_COLUMNS}",
        (*cron_values(cron), now, now),
    ).fetchone()
    return cron_row(row)


def _check_user_limit(cx: sqlite3.Connection, user_id: str | None, limit: int | None) -> None:
    if limit is None or user_id is None:
        return
    (count,) = cx.execute(
        "SELECT count(*) FROM (SELECT 1 FROM crons WHERE user_id = ? LIMIT ?)", (user_id, limit)
    ).fetchone()
    if count >= limit:
        raise TooManyCrons(user_id, limit)


def replace(cx: sqlite3.Connection, now: int, cron: CronRow, user_id: str | None) -> CronRow | None:
    assignments = ", ".join(f"{name} = ?" for name in CRON_VALUES)
    row = cx.execute(
        f"UPDATE crons SET {assignments}, updated_at = ?, version = version + 1"
        f" WHERE cron_id = ? AND version = ? AND (? IS NULL OR user_id = ?) RETURNING {CRON_COLUMNS}",
        (*cron_values(cron), now, cron.cron_id, cron.version, user_id, user_id),
    ).fetchone()
    return None if row is None else cron_row(row)


def delete(cx: sqlite3.Connection, now: int, cron_id: str, user_id: str | None) -> bool:  # noqa: ARG001 - every transaction gets a clock
    row = cx.execute(
        "DELETE FROM crons WHERE cron_id = ? AND (? IS NULL OR user_id = ?) RETURNING cron_id",
        (cron_id, user_id, user_id),
    ).fetchone()
    return row is not None


_ORDERS = {"next_run_date": "next_at", "end_time": "end_at"}
_DIRECTIONS = {"asc": "ASC NULLS LAST", "desc": "DESC NULLS LAST"}


def listed(cx: sqlite3.Connection, query: CronQuery, user_id: str | None) -> Page[CronRow]:
    """First the ids of the page, then the rows of these alone."""
    where, args = _narrowed(query, user_id)
    order, direction = _ORDERS.get(query.sort_by, query.sort_by), _DIRECTIONS[query.sort_order]
    page = cx.execute(
        f"SELECT cron_id FROM crons WHERE {where} ORDER BY {order} {direction}, cron_id {direction}"
        " LIMIT :limit OFFSET :offset",
        {**args, "limit": query.limit, "offset": query.offset},
    ).fetchall()
    rows = (
        row for one in page for row in cx.execute(f"SELECT {CRON_COLUMNS} FROM crons WHERE cron_id = ?", one)
    )
    cutter = Cutter(query.max_bytes, CRON_TEXTS)
    return cutter.page(readable("cron", cutter.rows(rows), cron_row))


def count(cx: sqlite3.Connection, query: CronQuery, user_id: str | None) -> int:
    where, args = _narrowed(query, user_id)
    return cx.execute(f"SELECT count(*) FROM crons WHERE {where}", args).fetchone()[0]


def _narrowed(query: CronQuery, user_id: str | None) -> tuple[str, JsonObject]:
    where, args = ["TRUE"], dict[str, object]()
    for name, value in (("user_id", user_id), ("thread_id", query.thread_id), ("enabled", query.enabled)):
        if value is not None:
            where.append(f"{name} = :{name}")
            args[name] = value
    if query.assistant_ids is not None:
        where.append("assistant_id IN (SELECT value FROM json_each(:assistants))")
        args["assistants"] = dumps(query.assistant_ids)
    if query.metadata:
        where.append(containing("metadata", "metadata", query.metadata, args))
    return " AND ".join(where), args


# -- firing

_MAY_FIRE = (
    "FROM crons INDEXED BY crons_due WHERE enabled = 1 AND next_at IS NOT NULL"
    " AND assistant_id IN (SELECT value FROM json_each(:assistants))"
)


def next_due(cx: sqlite3.Connection, assistants: Sequence[str], now: int) -> float | None:
    """Seconds, 0 where one is due now; None = none will be."""
    (when,) = cx.execute(
        f"SELECT min(next_at) {_MAY_FIRE}", {"assistants": dumps(list(assistants))}
    ).fetchone()
    return None if when is None else max(0.0, (when - now) / 1e6)


def due(cx: sqlite3.Connection, assistants: Sequence[str], limit: int, now: int) -> DueCrons:
    rows = cx.execute(
        f"SELECT {CRON_COLUMNS} {_MAY_FIRE} AND next_at <= :now ORDER BY next_at, cron_id LIMIT :limit",
        {"assistants": dumps(list(assistants)), "now": now, "limit": limit},
    )
    return DueCrons(now, tuple(readable("cron", rows, cron_row)))


_OVER = "cron_id = :cron AND next_at = :at AND next_at <= :now AND enabled = 1"


def check_due(cx: sqlite3.Connection, firing: Firing, now: int) -> None:
    """Raises CronFired where the cron is not due at that moment (any more)."""
    parameters = {"cron": firing.cron_id, "at": firing.at, "now": now}
    if cx.execute(f"SELECT 1 FROM crons WHERE {_OVER}", parameters).fetchone() is None:
        raise CronFired(firing.cron_id)


def advance(
    cx: sqlite3.Connection, firing: Firing, *, run_id: str | None, error: str | None, now: int
) -> bool:
    """Move the cron past this firing. False = that was done before."""
    row = cx.execute(
        "UPDATE crons SET next_at = :next, last_at = :at, last_run_id = COALESCE(:run, last_run_id),"
        f" last_error = :error, version = version + 1 WHERE {_OVER} RETURNING cron_id",
        {
            "cron": firing.cron_id,
            "at": firing.at,
            "next": firing.next_at,
            "run": run_id,
            "error": storable(error),
            "now": now,
        },
    ).fetchone()
    return row is not None


def skip(cx: sqlite3.Connection, now: int, firing: Firing, error: str | None) -> bool:
    return advance(cx, firing, run_id=None, error=error, now=now)
