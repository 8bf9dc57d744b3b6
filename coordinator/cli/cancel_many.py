"""runs cancel with filters: selects the runs, requests a confirmation, cancels them in pages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import typer

from coordinator.arguments import check_action, check_choice, check_optional_id, check_text
from coordinator.bootstrap import Observer
from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.cancel import CancelOptions, current_actor, warn_without_redis
from coordinator.cli.failures import DONE, USAGE, CommandFailed, note
from coordinator.cli.filters import micros_of, pairs_of
from coordinator.cli.ids import optional_id
from coordinator.cli.owners import Owners
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.cli.text import counted, safe
from coordinator.resources.runs import MAX_IDS, PAGE, Cancelled
from coordinator.schemas import Cause
from coordinator.settings import Settings
from stores.finding import RunQuery

SHOWN = 10
"""Number of runs that are listed before the confirmation."""
_STATUSES = ("pending", "running", "all")


class Filters(NamedTuple):
    """Options of the command. A run is selected if it matches all of them."""

    status: str | None
    thread: str | None
    assistant: str | None
    user: str | None
    metadata: tuple[str, ...]
    older_than: str | None


async def cancel_many(
    settings: Settings, filters: Filters, options: CancelOptions, *, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Cancel all runs in flight that match. They are selected before the confirmation: runs admitted later
    are not cancelled. Each cancel is a transaction of its own. Raises CommandFailed if the command cannot be
    confirmed, typer.Abort if it is declined."""
    check_action(options.action)
    actor = check_text("--actor", options.actor) or current_actor()
    query, user_id = _query(filters), check_optional_id("--user", filters.user)
    async with observing(settings) as observer:
        thread_id = await optional_id(observer.store, "thread", filters.thread, argument="--thread")
        run_ids = await observer.manager.runs.cancellable_ids(_on_thread(query, thread_id), user_id=user_id)
        if not as_json:
            await _show(observer, run_ids)
        done = Cancelled()
        if run_ids and not dry_run:
            _confirm(run_ids, options.action, yes=yes, as_json=as_json)
            done = await observer.manager.runs.cancel(
                run_ids,
                action=options.action,
                reason=options.reason,
                actor=actor,
                cause=Cause.admin,
                progress=_progress(len(run_ids)),
            )
            if await observer.redis_answers() is False:
                one = done.cancelled == 1
                warn_without_redis("the cancel is" if one else f"the cancels of {done.cancelled} runs are")
    _report(run_ids, done, settings.shown_store, dry_run=dry_run, as_json=as_json)
    return DONE


def _query(filters: Filters) -> RunQuery:
    """Raises InvalidArgument."""
    status = None if filters.status is None else check_choice("--status", filters.status, _STATUSES)
    before = None
    if filters.older_than is not None:
        before = time.time_ns() // 1000 - micros_of(filters.older_than, "--older-than")
    return RunQuery(
        statuses=() if status in (None, "all") else (status,),
        assistant_id=check_optional_id("--assistant", filters.assistant),
        metadata=pairs_of(filters.metadata),
        created_before=before,
    )


def _on_thread(query: RunQuery, thread_id: str | None) -> RunQuery:
    return query if thread_id is None else replace(query, thread_id=thread_id)


async def _show(observer: Observer, run_ids: list[str]) -> None:
    """List the first runs, and count the others."""
    rows = [row for run_id in run_ids[:SHOWN] if (row := await observer.store.row(run_id)) is not None]
    if rows:
        owners = await Owners.read(observer.store)
        lines = [run_line(row, None, dead=owners.dead(row)) for row in rows]
        screen.show_table(COLUMNS, lines, none="", spare=SPARE)
    if len(run_ids) > SHOWN:
        screen.show_lines([f"and {_number(len(run_ids) - SHOWN)} more"])


def _confirm(run_ids: list[str], action: str, *, yes: bool, as_json: bool) -> None:
    """Raises CommandFailed without a terminal, typer.Abort if declined."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"{_runs(len(run_ids))} would be cancelled: not confirmed",
            "Add --yes to cancel them, --dry-run to count them.",
            code=USAGE,
        )
    typer.confirm(f"Cancel {_runs(len(run_ids))} ({safe(action)})?", abort=True, err=True)


def _progress(expected: int) -> Callable[[Cancelled], None]:
    def report(done: Cancelled) -> None:
        if expected > PAGE:
            note(f"{sum(done)} of {expected} runs")

    return report


def _report(run_ids: list[str], done: Cancelled, store: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        counts = {"matched": len(run_ids), **done._asdict(), "run_ids": run_ids[:SHOWN]}
        screen.show_document({"cancel_many": {"dry_run": dry_run, **counts}})
    elif not run_ids:
        screen.show_lines(
            [f"no run in flight in {store} matches, or all matching runs are already cancelled"]
        )
    elif dry_run:
        screen.show_lines([f"would cancel {_runs(len(run_ids))}"])
    else:
        ended = f"; {done.ended} had already ended" if done.ended else ""
        screen.show_lines([f"cancelled {_runs(done.cancelled)}: committed{ended}"])
        if len(run_ids) == MAX_IDS:
            screen.show_lines([f"there may be more than {MAX_IDS}: repeat the command"])


def _runs(count: int) -> str:
    return counted(count, "run") if count < MAX_IDS else f"{_number(count)} runs"


def _number(count: int) -> str:
    return f"{count}{' or more' if count >= MAX_IDS else ''}"
