"""projections list, projections remove."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

import typer

from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import projection_document
from coordinator.cli.failures import DONE, USAGE, CommandFailed
from coordinator.cli.text import counted, safe, short, span
from coordinator.settings import Settings
from stores.base import CoordinationStore
from stores.projections import ProjectionRow

COLUMNS = ("PROJECTION", "PENDING", "OLDEST", "FAILING", "FILLING", "CLAIMED", "AGE", "ERROR")
_OVERDUE = 60_000_000  # µs; workers deliver a change within about a second


async def list_projections(settings: Settings, *, as_json: bool) -> int:
    async with observing(settings) as observer:
        rows = await observer.manager.projections.search()
    if as_json:
        screen.show_document({"projections": [projection_document(row) for row in rows]})
        return DONE
    now = time.time_ns() // 1000
    screen.show_table(
        COLUMNS,
        [_line(row, now) for row in rows],
        none=f"no projections in {settings.shown_store}",
        spare=("AGE", "CLAIMED", "FILLING"),
    )
    return DONE


def _line(row: ProjectionRow, now: int) -> list[object]:
    """The cells of COLUMNS."""
    return [
        row.name,
        row.pending,
        None if row.oldest_at is None else span(max(0, now - row.oldest_at) / 1e6),
        row.failing,
        "yes" if row.filling else "no",
        row.claimed_by,
        span(max(0, now - row.created_at) / 1e6),
        None if row.error is None else short(row.error, 60),
    ]


def summary(rows: Sequence[ProjectionRow]) -> str:
    """For a list of facts about the store."""
    behind = [f"{row.name!r} with {_pending(row)}" for row in rows if row.pending]
    return f"{len(rows)}: {', '.join(behind)}" if behind else str(len(rows))


def warnings_of(rows: Sequence[ProjectionRow], now: int) -> list[str]:
    """One sentence for each projection that fails, or whose oldest pending change is old. `now`: microseconds
    since 1970."""
    warnings = list[str]()
    for row in rows:
        if row.oldest_at is None or (not row.failing and now - row.oldest_at < _OVERDUE):
            continue
        since = span(max(0, now - row.oldest_at) / 1e6)
        why = f"{row.failing} failed ({short(row.error, 200)})" if row.failing else "no worker delivers them"
        warnings.append(
            f"projection {row.name!r} has {_pending(row)}, the oldest since {since}: {why}; if the projection"
            f" has left the code: coordinator projections remove {shlex.quote(row.name)}"
        )
    return warnings


def _pending(row: ProjectionRow) -> str:
    return counted(row.pending, "pending change")


async def remove_projection(settings: Settings, name: str, *, yes: bool, as_json: bool) -> int:
    """Raises CommandFailed if the projection is unknown, a live worker delivers its changes, or the command
    cannot be confirmed; typer.Abort if it is declined."""
    async with observing(settings) as observer:
        rows = {row.name: row for row in await observer.manager.projections.search()}
        row = rows.get(name)
        if row is None:
            raise _unknown(settings, name)
        await _check_unused(observer.store, row)
        _confirm(row, yes=yes, as_json=as_json)
        if not await observer.manager.projections.remove(name):
            raise _unknown(settings, name)
    if as_json:
        screen.show_document({"removed": {"name": name, "pending": row.pending}})
    else:
        screen.show_lines([f"removed projection {name!r} with {_pending(row)}"])
    return DONE


async def _check_unused(store: CoordinationStore, row: ProjectionRow) -> None:
    for worker in await store.workers(counted=False):
        if worker.epoch == row.claimed_by and not store.proven_dead(worker):
            raise CommandFailed(
                "ProjectionInUse",
                f"worker epoch {worker.epoch} delivers projection {row.name!r}: nothing was changed",
                "Remove it from the code first, and restart the workers.",
            )


def _confirm(row: ProjectionRow, *, yes: bool, as_json: bool) -> None:
    """Raises CommandFailed without a terminal, typer.Abort if declined."""
    if yes:
        return
    what = f"projection {row.name!r} with {_pending(row)}"
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"{what} would be removed: not confirmed",
            "Add --yes if no worker has it any more.",
            code=USAGE,
        )
    typer.confirm(
        f"Remove {safe(what)}? A worker that still has it delivers nothing more until it is restarted",
        abort=True,
        err=True,
    )


def _unknown(settings: Settings, name: str) -> CommandFailed:
    return CommandFailed(
        "ProjectionNotFound",
        f"projection {name!r} does not exist in {settings.shown_store}",
        "`coordinator projections list` shows the existing projections.",
    )
