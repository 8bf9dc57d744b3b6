"""crons list, crons disable, crons delete."""

from __future__ import annotations

import time
from dataclasses import replace

from coordinator.arguments import check_id, check_optional_id
from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import cron_document
from coordinator.cli.failures import DONE, CommandFailed, note_next_page
from coordinator.cli.ids import optional_id, whole_id
from coordinator.cli.text import clock, counted, short, span
from coordinator.errors import CronNotFound, InvalidArgument
from coordinator.manager import RunManager
from coordinator.settings import Settings
from stores.crons import CronQuery, CronRow

COLUMNS = ("CRON", "SCHEDULE", "ZONE", "ASSISTANT", "THREAD", "ENABLED", "NEXT", "LAST", "USER", "ERROR")
SPARE = ("USER", "ZONE", "LAST", "ENABLED", "THREAD")
"""See `coordinator.cli.runs.SPARE`."""


async def list_crons(
    settings: Settings,
    *,
    assistant: str | None,
    thread: str | None,
    user: str | None,
    enabled: bool | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> int:
    query = CronQuery(
        assistant_ids=None if assistant is None else (check_id("--assistant", assistant),),
        enabled=enabled,
        limit=limit + 1,
        offset=offset,
    )
    user_id = check_optional_id("--user", user)
    async with observing(settings) as observer:
        thread_id = await optional_id(observer.store, "thread", thread, argument="--thread")
        crons = await observer.manager.crons.search(replace(query, thread_id=thread_id), user_id=user_id)
    next_offset = offset + limit if len(crons) > limit else None
    if as_json:
        documents = [cron_document(one) for one in crons[:limit]]
        screen.show_document({"crons": documents, "offset": next_offset})
    else:
        none = f"no such crons in {settings.shown_store}"
        screen.show_table(COLUMNS, [_line(one) for one in crons[:limit]], none=none, spare=SPARE)
        note_next_page(next_offset)
    return DONE


def _line(row: CronRow) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000
    return [
        row.cron_id,
        row.schedule,
        row.timezone or "UTC",
        row.assistant_id,
        row.thread_id or "one per run",
        "yes" if row.enabled else "no",
        clock(row.next_at) if row.enabled and row.next_at is not None else None,
        None if row.last_at is None else f"{span((now - row.last_at) / 1e6)} ago",
        row.user_id,
        None if row.last_error is None else short(row.last_error, 60),
    ]


async def disable_crons(settings: Settings, cron_id: str | None, *, user: str | None, as_json: bool) -> int:
    """Disable one cron by id, or all crons of a user."""
    _check_which(cron_id, user)
    async with observing(settings) as observer:
        if cron_id is None:
            disabled = await observer.manager.crons.disable_all(user_id=check_id("--user", user))
        else:
            disabled = await _disable(
                observer.manager, settings, await whole_id(observer.store, "cron", cron_id, argument="CRON")
            )
    if as_json:
        screen.show_document({"disabled": disabled})
    elif disabled:
        screen.show_lines([f"{counted(len(disabled), 'cron')} disabled; their runs in flight continue"])
    else:
        screen.show_lines(["no such cron is enabled"])
    return DONE


async def _disable(manager: RunManager, settings: Settings, cron_id: str) -> list[str]:
    """Disable a cron; retries if it fired or was changed concurrently."""
    while True:
        try:
            cron = await manager.crons.get(cron_id)
        except CronNotFound:
            raise _unknown_cron(settings, cron_id) from None
        if not cron.enabled:
            return []
        if await manager.crons.replace(replace(cron, enabled=False, next_at=None)) is not None:
            return [cron_id]


async def delete_crons(settings: Settings, cron_id: str | None, *, user: str | None, as_json: bool) -> int:
    """Delete one cron by id, or all crons of a user."""
    _check_which(cron_id, user)
    async with observing(settings) as observer:
        if cron_id is None:
            deleted = await observer.manager.crons.delete_all(user_id=check_id("--user", user))
            line = f"{counted(len(deleted), 'cron')} deleted; their runs in flight continue"
        else:
            cron_id = await whole_id(observer.store, "cron", cron_id, argument="CRON")
            await _delete(observer.manager, settings, cron_id)
            deleted, line = cron_id, f"cron {cron_id} is deleted; its runs in flight continue"
    if as_json:
        screen.show_document({"deleted": deleted})
    else:
        screen.show_lines([line if deleted else f"no such crons in {settings.shown_store}"])
    return DONE


async def _delete(manager: RunManager, settings: Settings, cron_id: str) -> None:
    try:
        await manager.crons.delete(cron_id)
    except CronNotFound:
        raise _unknown_cron(settings, cron_id) from None


def _check_which(cron_id: str | None, user: str | None) -> None:
    """Raises InvalidArgument unless exactly one of them is given."""
    if (cron_id is None) == (user is None):
        raise InvalidArgument("CRON", "give the id of a cron, or --user")


def _unknown_cron(settings: Settings, cron_id: str) -> CommandFailed:
    return CommandFailed(
        "CronNotFound",
        f"cron {cron_id!r} does not exist in {settings.shown_store}",
        "`coordinator crons list` shows the existing crons.",
        cron_id=cron_id,
    )
