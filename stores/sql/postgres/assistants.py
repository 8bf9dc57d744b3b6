"""Assistants that clients create. See `stores.assistants` and functions/e_assistants.sql."""

from __future__ import annotations

from stores.assistants import AssistantQuery, AssistantRow
from stores.pages import Page
from stores.sql.assistants import COLUMNS, JSON, OF_VERSION, assistant_row, content, values
from stores.sql.codec import dumps
from stores.sql.columns import Columns
from stores.sql.postgres import pages
from stores.sql.postgres.calls import Call, Function, Query, Rows, scalar
from stores.sql.postgres.codec import plain, text

_CREATE = Function("create_assistant", ("text",) * 8 + ("bigint",), COLUMNS)


def create(now: int | None, assistant: AssistantRow) -> Call[AssistantRow | None]:
    return Call(_CREATE, (*map(text, values(assistant)), now), _first)


_CHANGE = Function("change_assistant", ("text",) * 7 + ("bigint", "text", "bigint"), COLUMNS)


def change(now: int | None, assistant: AssistantRow, user_id: str | None) -> Call[AssistantRow | None]:
    args = (assistant.assistant_id, *map(text, content(assistant)), assistant.revision, user_id, now)
    return Call(_CHANGE, args, _first)


_SET_VERSION = Function("set_assistant_version", ("text", "bigint", "text", "bigint"), COLUMNS)


def set_version(
    now: int | None, assistant_id: str, version: int, user_id: str | None
) -> Call[AssistantRow | None]:
    return Call(_SET_VERSION, (assistant_id, version, user_id, now), _first)


_DELETE = Function("delete_assistant", ("text", "text"))


def delete(now: int | None, assistant_id: str, user_id: str | None) -> Call[bool]:
    del now
    return Call(_DELETE, (assistant_id, user_id), scalar)


_DIRECTIONS = {"asc": "ASC", "desc": "DESC"}


def listed(query: AssistantQuery, user_id: str | None) -> Call[Page[AssistantRow]]:
    where, args = _narrowed(query, user_id)
    direction = _DIRECTIONS[query.sort_order]
    by = f"{query.sort_by} {direction}, name {direction}, assistant_id {direction}"
    return _page(f"SELECT {COLUMNS} FROM rc.assistants WHERE {where}", by, query, args)


def count(query: AssistantQuery, user_id: str | None) -> Call[int]:
    where, args = _narrowed(query, user_id)
    return Call(Query(f"SELECT count(*) FROM rc.assistants WHERE {where}"), tuple(args), scalar)


def _narrowed(query: AssistantQuery, user_id: str | None) -> tuple[str, list[object]]:
    where, args = ["TRUE"], list[object]()

    def narrow(condition: str, value: object) -> None:
        args.append(value)
        where.append(condition.format(f"${len(args)}"))

    for name, value in (("user_id", user_id), ("graph_id", query.graph_id)):
        if value is not None:
            narrow(f"{name} = {{}}", value)
    if query.name is not None:
        narrow('strpos(lower(name), lower({}::text COLLATE "C")) > 0', query.name)
    if query.metadata:
        narrow("rc.as_jsonb(metadata) @> rc.as_jsonb({})", dumps(query.metadata))
    return " AND ".join(where), args


def versions(assistant_id: str, query: AssistantQuery, user_id: str | None) -> Call[Page[AssistantRow]]:
    where = "a.assistant_id = $1 AND ($2::text IS NULL OR a.user_id = $2)"
    args: list[object] = [assistant_id, user_id]
    if query.metadata:
        args.append(dumps(query.metadata))
        where += " AND rc.as_jsonb(v.metadata) @> rc.as_jsonb($3)"
    selected = (
        f"SELECT * FROM (SELECT {OF_VERSION} FROM rc.assistants a"
        f" JOIN rc.assistant_versions v USING (assistant_id) WHERE {where}) versions"
    )
    return _page(selected, "version DESC", query, args)


def _page(selected: str, by: str, query: AssistantQuery, args: list[object]) -> Call[Page[AssistantRow]]:
    selected += f" ORDER BY {by} LIMIT ${len(args) + 1} OFFSET ${len(args) + 2}"
    page = Query(
        f"SELECT {COLUMNS}, total FROM (SELECT *, {pages.sizes(JSON, by)} FROM ({selected}) selected) page"
        f" WHERE {pages.within(f'${len(args) + 3}')} ORDER BY place"
    )
    args = [*args, query.limit, query.offset, query.max_bytes]
    return Call(page, tuple(args), lambda rows: pages.page("assistant", rows, _row))


def _row(columns: Columns) -> AssistantRow:
    return assistant_row([plain(value) for value in columns])


def _first(rows: Rows) -> AssistantRow | None:
    return _row(rows[0]) if rows else None
