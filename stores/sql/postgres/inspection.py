"""Inspects a schema: its version, its contents, its size."""

from __future__ import annotations

from stores.inspection import Applied, Inspection
from stores.sql.conditions import IN_FLIGHT, WAITS
from stores.sql.postgres import installed
from stores.sql.postgres import schema as schemas
from stores.sql.postgres.calls import Connection

_COUNTS = (
    f"SELECT (SELECT count(*) FROM rc.runs WHERE {IN_FLIGHT}),"
    f" (SELECT count(*) FROM rc.runs WHERE {IN_FLIGHT} AND {WAITS}),"
    " (SELECT count(*) FROM rc.threads), (SELECT count(*) FROM rc.workers WHERE state <> 'dead'),"
    " (SELECT count(*) FROM rc.workers WHERE state <> 'dead' AND lease_until < rc.clock($1)),"
    " (SELECT count(*) FROM rc.workers WHERE state = 'draining'),"
    " (SELECT count(*) FROM rc.transitions),"
    " (SELECT COALESCE(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
    " WHERE relnamespace = quote_ident($2)::regnamespace AND relkind = 'r')"
)
_BY_STATUS = "SELECT status, count(*) FROM rc.runs GROUP BY status ORDER BY status"
_VERSIONS = "SELECT version, count(*) FROM rc.workers WHERE state <> 'dead' GROUP BY version ORDER BY version"
_APPLIED = "SELECT version, name, applied_at FROM rc.schema_version ORDER BY version"
_INVALID = (
    "SELECT 'index ' || indexrelid::regclass || ' is not valid: REINDEX it' FROM pg_index"
    " JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = quote_ident($1)::regnamespace"
    " AND NOT indisvalid"
)


async def inspect(cx: Connection, schema: str, now: int | None) -> Inspection:
    """One snapshot. Raises StoreRefused."""

    def named(sql: str) -> str:
        return schemas.named(sql, schema)

    async with cx.transaction(isolation="repeatable_read", readonly=True):
        version = await schemas.version(cx, schema)
        newest = schemas.migrations()[-1].number
        if not version:
            return Inspection(version, newest, (), (), {}, 0, 0, 0, 0, 0, 0)
        in_flight, waiting, threads, alive, expired, draining, transitions, size = await cx.fetchrow(
            named(_COUNTS), now, schema
        )
        return Inspection(
            version=version,
            newest=newest,
            applied=tuple(Applied(*row) for row in await cx.fetch(named(_APPLIED))),
            faults=tuple(row[0] for row in await cx.fetch(_INVALID, schema)),
            runs={row[0]: row[1] for row in await cx.fetch(named(_BY_STATUS))},
            in_flight=in_flight,
            waiting=waiting,
            threads=threads,
            workers_alive=alive,
            workers_expired=expired,
            workers_draining=draining,
            transitions=transitions,
            size=size,
            versions={row[0]: row[1] for row in await cx.fetch(named(_VERSIONS))},
            functions=tuple(await _functions(cx, schema)),
        )


async def _functions(cx: Connection, schema: str) -> list[str]:
    if await installed.outdated(cx, schema):
        return ["the functions are of an older program: run `coordinator db migrate`"]
    record, wrong = await installed.recorded(cx, schema), await installed.differences(cx, schema)
    by = " of the newer program" if record is not None and record.newer else ""
    return [
        f"function {signature} {what} since it was installed: run `coordinator db migrate`{by}"
        for signature, what in wrong.items()
    ]
