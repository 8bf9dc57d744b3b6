"""crons list, crons delete."""

from __future__ import annotations

import time

from coordinator.arguments import check_id, check_optional_id
from coordinator.cli import screen
from coordinator.cli.access import looking_at
from coordinator.cli.documents import cron_document
from coordinator.cli.failures import DONE, CommandFailed
from coordinator.cli.text import clock, short, span
from coordinator.errors import CronNotFound
from coordinator.settings import Settings
from stores.crons import CronQuery, CronRow

COLUMNS = ("CRON", "SCHEDULE", "ZONE", "ASSISTANT", "THREAD", "ENABLED", "NEXT", "LAST", "USER", "ERROR")
SPARE = ("USER", "ZONE", "LAST", "ENABLED", "THREAD")
"""As `coordinator.cli.runs.SPARE`."""


async def list_crons(
    settings: Settings,
    *,
    assistant: str | None,
    thread: str | None,
    user: str | None,
    enabled: bool | None,
    limit: int,
    as_json: bool,
) -> int:
    query = CronQuery(
        assistant_ids=None if assistant is None else (check_id("--assistant", assistant),),
        thread_id=check_optional_id("--thread", thread),
        enabled=enabled,
        limit=limit,
    )
    user_id = check_optional_id("--user", user)
    async with looking_at(settings) as seen:
        found = await seen.manager.crons(query, user_id=user_id)
    if as_json:
        screen.show_document({"crons": [cron_document(one) for one in found]})
    else:
        none = f"no such crons in {settings.shown_store}"
        screen.show_table(COLUMNS, [_line(one) for one in found], none=none, spare=SPARE)
    return DONE


def _line(row: CronRow) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000
    return [
        row.cron_id,
        row.schedule,
        row.timezone or "UTC",
        row.assistant_id,
        row.thread_id or "one for each run",
        "yes" if row.enabled else "no",
        clock(row.next_at) if row.enabled and row.next_at is not None else None,
        None if row.last_at is None else f"{span((now - row.last_at) / 1e6)} ago",
        row.user_id,
        None if row.last_error is None else short(row.last_error, 60),
    ]


async def delete_cron(settings: Settings, cron_id: str, *, as_json: bool) -> int:
    check_id("CRON", cron_id)
    async with looking_at(settings) as seen:
        try:
            await seen.manager.delete_cron(cron_id)
        except CronNotFound:
            raise CommandFailed(
                "CronNotFound",
                f"cron {cron_id!r} is not in {settings.shown_store}",
                "`coordinator crons list` shows those that are.",
                cron_id=cron_id,
            ) from None
    if as_json:
        screen.show_document({"deleted": cron_id})
    else:
        screen.show_lines([f"cron {cron_id} is deleted; runs that it has begun go on"])
    return DONE
