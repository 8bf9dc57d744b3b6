"""Reads of projections that are the same SQL on both engines."""

from __future__ import annotations

from collections.abc import Sequence

from stores.json_values import JsonObject
from stores.projections import PendingChange, ProjectionRow
from stores.sql.select import Mapper, Row, Select

PAGE = 500
"""How many runs that are older than a projection are queued for it in one transaction."""


_OF_QUEUE = ("pending", "oldest_at", "failing", "error")


def projections() -> Select[list[ProjectionRow]]:
    """Without their queues."""

    def answer(rows: Sequence[Row], mapper: Mapper) -> list[ProjectionRow]:
        return [ProjectionRow(*mapper(row)) for row in rows]

    columns = "name, created_at, filled_to IS NOT NULL, claimed_by"
    return Select(columns, "projections", "true ORDER BY name", {}, answer)


def queues() -> Select[dict[str, JsonObject]]:
    """The fields of a ProjectionRow that its queue has, by projection."""

    def answer(rows: Sequence[Row], mapper: Mapper) -> dict[str, JsonObject]:
        return {name: dict(zip(_OF_QUEUE, queue, strict=True)) for name, *queue in map(mapper, rows)}

    columns = "projection, count(*), min(at), count(next_at), max(error)"
    return Select(columns, "run_changes", "true GROUP BY projection", {}, answer)


def pending_changes(run_id: str) -> Select[list[PendingChange]]:
    def answer(rows: Sequence[Row], mapper: Mapper) -> list[PendingChange]:
        return [PendingChange(*mapper(row)) for row in rows]

    columns = ", ".join(PendingChange._fields)
    return Select(columns, "run_changes", "run_id = :run ORDER BY seq", {"run": run_id}, answer)
