"""Crons: requests that are repeated, and when each is next due. See `stores.crons` and
functions/9_webhooks_crons.sql."""

from __future__ import annotations

from collections.abc import Sequence

from stores.crons import CronQuery, CronRow, DueCrons, Firing
from stores.errors import ThreadNotFound, TooManyCrons
from stores.pages import Page
from stores.sql.codec import CRON_COLUMNS, cron_row, cron_values, dumps
from stores.sql.columns import Columns
from stores.sql.postgres import pages
from stores.sql.postgres.calls import Call, Function, Query, Rows, scalar
from stores.sql.postgres.codec import plain, text
from stores.sql.readable import readable

_VALUES = (*("text",) * 6, "boolean", "bigint", *("text",) * 3, "bigint", "text")
_CREATE = Function("create_cron_as", (*_VALUES, "boolean", "bigint", "bigint"), CRON_COLUMNS)


def create(now: int | None, cron: CronRow, *, thread_must_exist: bool, limit: int | None) -> Call[CronRow]:
    def answer(rows: Rows) -> CronRow:
        if not rows:
            raise ThreadNotFound(cron.thread_id or "")
        if rows[0][0] is None:
            raise TooManyCrons(cron.user_id or "", limit or 0)
        return _row(rows[0])

    return Call(_CREATE, (*cron_values(cron), thread_must_exist, limit, now), answer)


_REPLACE = Function("replace_cron_as", (*_VALUES, "bigint", "text", "bigint"), CRON_COLUMNS)


def replace(now: int | None, cron: CronRow, user_id: str | None) -> Call[CronRow | None]:
    return Call(_REPLACE, (*cron_values(cron), cron.version, user_id, now), _first)


_DELETE = Function("delete_cron", ("text", "text"))


def delete(now: int | None, cron_id: str, user_id: str | None) -> Call[bool]:
    del now
    return Call(_DELETE, (cron_id, user_id), scalar)


_ORDERS = {"next_run_date": "next_at", "end_time": "end_at"}
_DIRECTIONS = {"asc": "ASC NULLS LAST", "desc": "DESC NULLS LAST"}


def listed(query: CronQuery, user_id: str | None) -> Call[Page[CronRow]]:
    where, args = _narrowed(query, user_id)
    order, direction = _ORDERS.get(query.sort_by, query.sort_by), _DIRECTIONS[query.sort_order]
    by = f"{order} {direction}, cron_id {direction}"
    selected = (
        f"SELECT * FROM rc.crons WHERE {where} ORDER BY {by} LIMIT ${len(args) + 1} OFFSET ${len(args) + 2}"
    )
    sizes = pages.sizes(("payload", "metadata", "user_document"), by)
    page = Query(
        f"SELECT {CRON_COLUMNS}, total FROM (SELECT *, {sizes}"
        f" FROM ({selected}) selected) page WHERE {pages.within(f'${len(args) + 3}')} ORDER BY place"
    )
    args += [query.limit, query.offset, query.max_bytes]
    return Call(page, tuple(args), lambda rows: pages.page("cron", rows, _row))


def count(query: CronQuery, user_id: str | None) -> Call[int]:
    where, args = _narrowed(query, user_id)
    return Call(Query(f"SELECT count(*) FROM rc.crons WHERE {where}"), tuple(args), scalar)


def _narrowed(query: CronQuery, user_id: str | None) -> tuple[str, list[object]]:
    where, args = ["TRUE"], list[object]()

    def narrow(condition: str, value: object) -> None:
        args.append(value)
        where.append(condition.format(f"${len(args)}"))

    for name, value in (("user_id", user_id), ("thread_id", query.thread_id), ("enabled", query.enabled)):
        if value is not None:
            narrow(f"{name} = {{}}", value)
    if query.assistant_ids is not None:
        narrow("assistant_id = ANY ({}::text[])", list(query.assistant_ids))
    if query.metadata:
        narrow("rc.as_jsonb(metadata) @> rc.as_jsonb({})", dumps(query.metadata))
    return " AND ".join(where), args


# -- firing

_MAY_FIRE = "FROM rc.crons WHERE enabled AND next_at IS NOT NULL AND assistant_id = ANY ($1::text[])"
_NEXT = Query(
    f"SELECT GREATEST(0, next_at - rc.clock($2)) / 1e6::float8 {_MAY_FIRE} ORDER BY next_at LIMIT 1"
)


def next_due(assistants: Sequence[str], now: int | None) -> Call[float | None]:
    return Call(_NEXT, (list(assistants), now), lambda rows: rows[0][0] if rows else None)


_DUE = Query(
    f"WITH now (us) AS MATERIALIZED (SELECT rc.clock($2)), due AS (SELECT {CRON_COLUMNS} {_MAY_FIRE}"
    " AND next_at <= (SELECT us FROM now) ORDER BY next_at, cron_id LIMIT $3)"
    f" SELECT us, {CRON_COLUMNS} FROM now LEFT JOIN due ON true ORDER BY next_at, cron_id"
)


def due(assistants: Sequence[str], limit: int, now: int | None) -> Call[DueCrons]:
    def answer(rows: Rows) -> DueCrons:
        return DueCrons(
            rows[0][0], tuple(readable("cron", (row[1:] for row in rows if row[1] is not None), _row))
        )

    return Call(_DUE, (list(assistants), now, limit), answer)


_SKIP = Function("skip_cron", ("text", "bigint", "bigint", "text", "bigint"))


def skip(now: int | None, firing: Firing, error: str | None) -> Call[bool]:
    return Call(_SKIP, (firing.cron_id, firing.at, firing.next_at, text(error), now), scalar)


def _row(columns: Columns) -> CronRow:
    return cron_row([plain(value) for value in columns])


def _first(rows: Rows) -> CronRow | None:
    return _row(rows[0]) if rows else None
