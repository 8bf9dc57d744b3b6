"""Threads as clients create, change, search and delete them. See `stores.catalogue` and
functions/8_threads.sql."""

from __future__ import annotations

from stores.catalogue import NewThread, RemovedThread, ThreadQuery
from stores.json_values import JsonObject
from stores.pages import Page
from stores.rows import ThreadRow
from stores.sql.codec import dumps
from stores.sql.conditions import IN_FLIGHT
from stores.sql.postgres import pages
from stores.sql.postgres.calls import Call, Function, Query, scalar
from stores.sql.postgres.reading import STATUS, THREAD_COLUMNS, WITH_LAST, thread_of

_SECOND = 1_000_000
_FENCE_KEPT = 86_400 * _SECOND
"""us. Longer than the lifetime of everything that carries the fence of a temporary thread: a slot in Redis, a
log, a paused worker."""
_UNUSED = 60 * _SECOND
"""us. A temporary thread without any run is kept so long at least: its run may still be admitted."""
_RUNS_AT_ONCE = 1_000
"""Runs removed in one transaction."""

_CREATE = Function("create_thread", ("text", "text", "text", "bigint", "boolean", "bigint"))


def create_thread(now: int | None, new: NewThread) -> Call[bool]:
    """False = the id is taken."""
    args = (new.thread_id, new.user_id, dumps(new.metadata), new.ttl_ms, new.temporary, now)
    return Call(_CREATE, args, scalar)


_METADATA = Query(
    "SELECT metadata FROM rc.threads WHERE thread_id = $1 AND ($2::text IS NULL OR user_id = $2)"
)


def metadata(thread_id: str, user_id: str | None) -> Call[str | None]:
    """The metadata as it is written; None = unknown thread."""
    return Call(_METADATA, (thread_id, user_id), lambda rows: rows[0][0] if rows else None)


_PATCH = Function("patch_thread", ("text", "text", "text", "text", "boolean", "bigint", "bigint"))


def patch_thread(
    now: int | None,
    thread_id: str,
    user_id: str | None,
    was: str,
    becomes: JsonObject,
    *,
    sets_ttl: bool,
    ttl_ms: int | None,
) -> Call[str]:
    """'patched'; 'changed' = the metadata is not what it `was`; 'not found'."""
    return Call(_PATCH, (thread_id, user_id, was, dumps(becomes), sets_ttl, ttl_ms, now), scalar)


_ORDERS = {
    "thread_id": "t.thread_id",
    "status": STATUS + ' COLLATE "C"',
    "created_at": "t.created_at",
    "updated_at": "t.updated_at",
    "state_updated_at": "COALESCE(t.state_updated_at, t.created_at)",
}
_DIRECTIONS = {"asc": "ASC", "desc": "DESC"}
_TEXTS = ("s.metadata", 's."values"', "s.interrupts")
"""The columns of a thread that may be large."""


def threads(query: ThreadQuery, user_id: str | None) -> Call[Page[ThreadRow]]:
    """First the ids of the page, then the rows of these alone. The limit stands in the text: with a parameter
    the server assumes a tenth of all threads, and plans each call."""
    order, direction = _ORDERS[query.sort_by], _DIRECTIONS[query.sort_order]
    period = f"t.updated_period {direction}, " if _by_period(query, user_id) else ""
    tables, where, args = _narrowed(query, user_id, status=query.sort_by == "status")
    selected = (
        f"SELECT t.thread_id, {order} AS sorted_by FROM {tables} WHERE {where}"
        f" ORDER BY {period}{order} {direction}, t.thread_id {direction}"
        f" LIMIT {query.limit:d} OFFSET {query.offset:d}"
    )
    args.append(query.max_bytes)
    by = f"sorted_by {direction}, thread_id {direction}"
    page = Query(
        f"WITH selected AS ({selected}), page AS (SELECT thread_id, {pages.sizes(_TEXTS, by)}"
        " FROM selected JOIN rc.threads s USING (thread_id))"
        f" SELECT {THREAD_COLUMNS}, total FROM page JOIN rc.threads t USING (thread_id) {WITH_LAST}"
        f" WHERE {pages.within(f'${len(args)}')} ORDER BY place"
    )
    return Call(page, tuple(args), lambda rows: pages.page("thread", rows, thread_of))


def _by_period(query: ThreadQuery, user_id: str | None) -> bool:
    """The page is read through the index `threads_latest` until it is full. A filter that few threads match
    begins at these instead."""
    narrow = user_id is not None or query.ids is not None or query.metadata or query.status == "busy"
    return query.sort_by == "updated_at" and not narrow and not query.temporary


def count_threads(query: ThreadQuery, user_id: str | None) -> Call[int]:
    tables, where, args = _narrowed(query, user_id)
    return Call(Query(f"SELECT count(*) FROM {tables} WHERE {where}"), tuple(args), scalar)


def _narrowed(
    query: ThreadQuery, user_id: str | None, *, status: bool = False
) -> tuple[str, str, list[object]]:
    """The FROM clause, the condition, its parameters."""
    where, args = list[str](), list[object]()

    def given(condition: str, value: object) -> None:
        args.append(value)
        where.append(condition.format(f"${len(args)}"))

    if query.ids is not None:
        given("t.thread_id = ANY ({}::text[])", list(query.ids))
    elif not query.temporary:
        where.append("NOT t.temporary")
    if user_id is not None:
        given("t.user_id = {}", user_id)
    if query.metadata:
        where.append("t.metadata <> '{}'")  # the condition of the index
        given("rc.as_jsonb(t.metadata) @> rc.as_jsonb({})", dumps(query.metadata))
    if query.values:
        given('rc.as_jsonb(t."values") @> rc.as_jsonb({})', dumps(query.values))
    if query.status == "busy":  # begins at the runs in flight
        where.append(f"t.thread_id IN (SELECT thread_id FROM rc.runs WHERE {IN_FLIGHT})")
    elif query.status is not None:
        status = True
        given(f"{STATUS} = {{}}", query.status)
    tables = f"rc.threads t {WITH_LAST}" if status else "rc.threads t"
    return tables, " AND ".join(where) or "true", args


_HAS_EXPIRED = Function("has_expired", ("bigint", "bigint"))


def has_expired_threads(now: int | None) -> Call[bool]:
    return Call(_HAS_EXPIRED, (_UNUSED, now), scalar)


_EXPIRE = Function("expire_threads", ("bigint",) * 5)


def expire_threads(now: int | None, limit: int) -> Call[list[RemovedThread]]:
    return Call(
        _EXPIRE,
        (limit, _UNUSED, _RUNS_AT_ONCE, _FENCE_KEPT, now),
        lambda rows: [RemovedThread(thread_id, tuple(run_ids)) for thread_id, run_ids in rows],
    )
