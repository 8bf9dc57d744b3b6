"""Assistants that clients create, and their versions. See `stores.assistants`."""

from __future__ import annotations

import sqlite3

from stores.assistants import AssistantQuery, AssistantRow
from stores.json_values import JsonObject
from stores.pages import Cutter, Page
from stores.sql.assistants import (
    COLUMNS,
    CONTENT,
    JSON_COLUMNS,
    OF_VERSION,
    VALUES,
    assistant_row,
    content,
    values,
)
from stores.sql.columns import Columns
from stores.sql.readable import readable
from stores.sql.sqlite.contains import containing

_SCOPE = "(:user IS NULL OR user_id = :user)"
_CONTENT = ", ".join(CONTENT)


def create(cx: sqlite3.Connection, now: int, assistant: AssistantRow) -> AssistantRow | None:
    row = cx.execute(
        f"INSERT INTO assistants ({', '.join(VALUES)}, version, created_at, updated_at)"
        f" VALUES ({', '.join('?' * len(VALUES))}, 1, ?, ?) ON CONFLICT DO NOTHING RETURNING {COLUMNS}",
        (*values(assistant), now, now),
    ).fetchone()
    return None if row is None else _with_version(cx, now, row)


def change(
    cx: sqlite3.Connection, now: int, assistant: AssistantRow, user_id: str | None
) -> AssistantRow | None:
    assignments = ", ".join(f"{name} = :{name}" for name in CONTENT)
    row = cx.execute(
        f"UPDATE assistants SET {assignments}, updated_at = :now, revision = revision + 1, version = 1 +"
        " (SELECT max(version) FROM assistant_versions v WHERE v.assistant_id = assistants.assistant_id)"
        f" WHERE assistant_id = :id AND revision = :revision AND {_SCOPE} RETURNING {COLUMNS}",
        {
            **dict(zip(CONTENT, content(assistant), strict=True)),
            "now": now,
            "id": assistant.assistant_id,
            "revision": assistant.revision,
            "user": user_id,
        },
    ).fetchone()
    return None if row is None else _with_version(cx, now, row)


def _with_version(cx: sqlite3.Connection, now: int, row: Columns) -> AssistantRow:
    """Writes the content of the row as its version."""
    cx.execute(
        f"INSERT INTO assistant_versions (assistant_id, version, {_CONTENT}, created_at)"
        f" SELECT assistant_id, version, {_CONTENT}, ? FROM assistants WHERE assistant_id = ?",
        (now, row[0]),
    )
    return assistant_row(row)


def set_version(
    cx: sqlite3.Connection, now: int, assistant_id: str, version: int, user_id: str | None
) -> AssistantRow | None:
    row = cx.execute(
        f"UPDATE assistants SET ({_CONTENT}) = (SELECT {_CONTENT} FROM assistant_versions"
        " WHERE assistant_id = :id AND version = :version), version = :version, updated_at = :now,"
        f" revision = revision + 1 WHERE assistant_id = :id AND {_SCOPE} AND EXISTS"
        " (SELECT 1 FROM assistant_versions WHERE assistant_id = :id AND version = :version)"
        f" RETURNING {COLUMNS}",
        {"id": assistant_id, "version": version, "now": now, "user": user_id},
    ).fetchone()
    return None if row is None else assistant_row(row)


def delete(cx: sqlite3.Connection, now: int, assistant_id: str, user_id: str | None) -> bool:
    del now
    row = cx.execute(
        f"DELETE FROM assistants WHERE assistant_id = :id AND {_SCOPE} RETURNING assistant_id",
        {"id": assistant_id, "user": user_id},
    ).fetchone()
    if row is not None:
        cx.execute("DELETE FROM assistant_versions WHERE assistant_id = ?", (assistant_id,))
    return row is not None


_DIRECTIONS = {"asc": "ASC", "desc": "DESC"}


def listed(cx: sqlite3.Connection, query: AssistantQuery, user_id: str | None) -> Page[AssistantRow]:
    """First the ids of the page, then the rows of these alone."""
    where, args = _narrowed(query, user_id)
    direction = _DIRECTIONS[query.sort_order]
    page = cx.execute(
        f"SELECT assistant_id FROM assistants WHERE {where} ORDER BY {query.sort_by} {direction},"
        f" name {direction}, assistant_id {direction} LIMIT :limit OFFSET :offset",
        {**args, "limit": query.limit, "offset": query.offset},
    ).fetchall()
    rows = (
        row
        for one in page
        for row in cx.execute(f"SELECT {COLUMNS} FROM assistants WHERE assistant_id = ?", one)
    )
    cutter = Cutter(query.max_bytes, JSON_COLUMNS)
    return cutter.page(readable("assistant", cutter.rows(rows), assistant_row))


def count(cx: sqlite3.Connection, query: AssistantQuery, user_id: str | None) -> int:
    where, args = _narrowed(query, user_id)
    return cx.execute(f"SELECT count(*) FROM assistants WHERE {where}", args).fetchone()[0]


def _narrowed(query: AssistantQuery, user_id: str | None) -> tuple[str, JsonObject]:
    where, args = ["TRUE"], dict[str, object]()
    for name, value in (("user_id", user_id), ("graph_id", query.graph_id)):
        if value is not None:
            where.append(f"{name} = :{name}")
            args[name] = value
    if query.name is not None:
        where.append("instr(lower(name), lower(:name))")
        args["name"] = query.name
    if query.metadata:
        where.append(containing("metadata", "metadata", query.metadata, args))
    return " AND ".join(where), args


def versions(
    cx: sqlite3.Connection, assistant_id: str, query: AssistantQuery, user_id: str | None
) -> Page[AssistantRow]:
    where, args = "a.assistant_id = :id AND (:user IS NULL OR a.user_id = :user)", dict[str, object]()
    if query.metadata:
        where += f" AND {containing('v.metadata', 'metadata', query.metadata, args)}"
    rows = cx.execute(
        f"SELECT {OF_VERSION} FROM assistants a JOIN assistant_versions v USING (assistant_id) WHERE {where}"
        " ORDER BY v.version DESC LIMIT :limit OFFSET :offset",
        {**args, "id": assistant_id, "user": user_id, "limit": query.limit, "offset": query.offset},
    )
    cutter = Cutter(query.max_bytes, JSON_COLUMNS)
    return cutter.page(readable("assistant", cutter.rows(rows), assistant_row))
