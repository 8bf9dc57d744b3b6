"""Event logs in the store. See functions/c_events.sql."""

from __future__ import annotations

from collections.abc import Sequence

from stores.events import EventPage, EventsKept, Kept, NewEvents, Position
from stores.sql.postgres.calls import Call, Function, Query, Rows, nothing, scalar

_APPEND = Function(
    "append_events",
    (
        *("text[]", "bigint[]", "bigint[]", "bigint[]", "bigint[]", "bigint[]", "text[]", "text[]"),
        *("bigint", "bigint"),
    ),
    "kept, followed",
)


def append(now: int | None, logs: Sequence[NewEvents], ttl_us: int) -> Call[list[EventsKept]]:
    entries = [(place, *entry) for place, log in enumerate(logs, 1) for entry in log.entries]
    args = (
        [log.run_id for log in logs],
        [log.fence for log in logs],
        [log.floor[0] for log in logs],
        [log.floor[1] for log in logs],
        *(list(column) for column in (zip(*entries, strict=True) if entries else ((),) * 4)),
        ttl_us,
        now,
    )

    def answer(rows: Rows) -> list[EventsKept]:
        return [EventsKept(Kept(kept), followed) for kept, followed in rows]

    return Call(_APPEND, args, answer)


_EVENTS = Query(
    "SELECT l.fence, l.number, e.fence, e.number, e.mode, e.json FROM (SELECT) one"
    " LEFT JOIN rc.event_logs l ON l.run_id = $1 AND l.number > 0"
    " LEFT JOIN LATERAL (SELECT fence, number, mode, json FROM"
    " (SELECT *, sum(octet_length(json)) OVER (ORDER BY fence, number"
    " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM"
    " (SELECT fence, number, mode, json FROM rc.run_events"
    " WHERE run_id = $1 AND (fence, number) > ($2, $3) ORDER BY fence, number LIMIT $4) page) sized"
    " WHERE before IS NULL OR before < $5) e ON true ORDER BY e.fence, e.number"
)


def events(run_id: str, after: Position | None, limit: int, max_bytes: int) -> Call[EventPage]:
    fence, number = after or (-1, 0)

    def answer(rows: Rows) -> EventPage:
        top_fence, top, *_ = rows[0]
        events = tuple((row[2], row[3], row[4], row[5]) for row in rows if row[2] is not None)
        return EventPage(events, None if top is None else (top_fence, top))

    return Call(_EVENTS, (run_id, fence, number, limit, max_bytes), answer)


_TOPS = Query("SELECT run_id, fence, number FROM rc.event_logs WHERE run_id = ANY ($1) AND number > 0")


def tops(run_ids: Sequence[str]) -> Call[dict[str, Position]]:
    return Call(
        _TOPS, (list(run_ids),), lambda rows: {run_id: (fence, number) for run_id, fence, number in rows}
    )


_FOLLOW = Function("follow_runs", ("text[]", "bigint", "boolean", "bigint"))


def follow(now: int | None, run_ids: Sequence[str], seconds_us: int, *, logs: bool) -> Call[None]:
    return Call(_FOLLOW, (list(run_ids), seconds_us, logs, now), nothing)


_EXPIRE = Function("expire_events", ("bigint", "bigint", "bigint"))


def expire(now: int | None, limit: int, max_bytes: int | None) -> Call[int]:
    return Call(_EXPIRE, (limit, max_bytes, now), scalar)
