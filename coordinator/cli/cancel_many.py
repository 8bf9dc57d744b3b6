"""runs cancel with filters: how many that would be, a question, and then one after another, in pages."""

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
from coordinator.cli.access import looking_at
from coordinator.cli.cancel import How, me, warn_without_redis
from coordinator.cli.failures import DONE, USAGE, CommandFailed, note
from coordinator.cli.filters import micros_of, pairs_of
from coordinator.cli.ids import optional_id
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.cli.text import counted, safe
from coordinator.resources.runs import MAX_IDS, PAGE, Cancelled
from coordinator.schemas import Cause
from coordinator.settings import Settings
from stores.finding import RunQuery

SHOWN = 10
"""Runs that are shown before the question."""
_STATUSES = ("pending", "running", "all")


class Filters(NamedTuple):
    """As they were given. All of them have to fit."""

    status: str | None
    thread: str | None
    assistant: str | None
    user: str | None
    metadata: tuple[str, ...]
    older_than: str | None


async def cancel_many(
    settings: Settings, filters: Filters, how: How, *, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Which runs is fixed before the question: none that begins meanwhile is cancelled. Raises CommandFailed
    where nobody can confirm, typer.Abort where the answer is no."""
    check_action(how.action)
    actor = check_text("--actor", how.actor) or me()
    query, user_id = _query(filters), check_optional_id("--user", filters.user)
    async with looking_at(settings) as seen:
        thread_id = await optional_id(seen.store, "thread", filters.thread, argument="--thread")
        found = await seen.manager.runs.cancellable_ids(_on(query, thread_id), user_id=user_id)
        if not as_json:
            await _show(seen, found)
        done = Cancelled()
        if found and not dry_run:
            _ask(found, how.action, yes=yes, as_json=as_json)
            done = await seen.manager.runs.cancel(
                found,
                action=how.action,
                reason=how.reason,
                actor=actor,
                cause=Cause.admin,
                progress=_progress(len(found)),
            )
            if await seen.redis_answers() is False:
                warn_without_redis(f"the cancels of {done.cancelled} runs are")
    _report(found, done, settings.shown_store, dry_run=dry_run, as_json=as_json)
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


def _on(query: RunQuery, thread_id: str | None) -> RunQuery:
    return query if thread_id is None else replace(query, thread_id=thread_id)


async def _show(seen: Observer, found: list[str]) -> None:
    """The first of them, and how many there are."""
    rows = [row for run_id in found[:SHOWN] if (row := await seen.store.row(run_id)) is not None]
    if rows:
        screen.show_table(COLUMNS, [run_line(row, None) for row in rows], none="", spare=SPARE)
    if len(found) > SHOWN:
        screen.show_lines([f"and {_number(len(found) - SHOWN)} more"])


def _ask(found: list[str], action: str, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"{_runs(len(found))} would be cancelled, and nobody confirmed it",
            "Add --yes to cancel them, --dry-run to only count.",
            code=USAGE,
        )
    typer.confirm(f"Cancel {_runs(len(found))} ({safe(action)})?", abort=True, err=True)


def _progress(expected: int) -> Callable[[Cancelled], None]:
    def tell(done: Cancelled) -> None:
        if expected > PAGE:
            note(f"{sum(done)} of {expected} runs")

    return tell


def _report(found: list[str], done: Cancelled, store: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        counts = {"matched": len(found), **done._asdict(), "run_ids": found[:SHOWN]}
        screen.show_document({"cancel_many": {"dry_run": dry_run, **counts}})
    elif not found:
        screen.show_lines([f"no run in flight in {store} fits, or all that do are cancelled already"])
    elif dry_run:
        screen.show_lines([f"would cancel {_runs(len(found))}"])
    else:
        ended = f"; {done.ended} had ended before" if done.ended else ""
        screen.show_lines([f"cancelled {_runs(done.cancelled)}: committed{ended}"])
        if len(found) == MAX_IDS:
            screen.show_lines([f"there may be more than {MAX_IDS}: give the command again"])


def _runs(count: int) -> str:
    return counted(count, "run") if count < MAX_IDS else f"{_number(count)} runs"


def _number(count: int) -> str:
    return f"{count}{' or more' if count >= MAX_IDS else ''}"
