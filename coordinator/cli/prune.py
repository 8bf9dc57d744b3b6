"""prune: counts old history, requests a confirmation, and removes it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from coordinator.bootstrap import store_from_url
from coordinator.cli import screen
from coordinator.cli.access import check_visible
from coordinator.cli.failures import DONE, USAGE, CommandFailed, note
from coordinator.cli.filters import seconds_of
from coordinator.cli.text import counted, span
from coordinator.errors import InvalidArgument
from coordinator.settings import Settings
from coordinator.workers.pruner import prune
from stores.pruning import Pruned, PruningStore, Retention

_PROGRESS_INTERVAL = 5_000  # rows


async def prune_history(
    settings: Settings, *, older_than: str, dry_run: bool, yes: bool, as_json: bool
) -> int:
    age = seconds_of(older_than, "--older-than")
    if age < settings.keep_finished:
        given = older_than.strip()
        unit = (
            f"{given} means {given} seconds: write the unit, for example {given}d. It "
            if given.isdigit()
            else ""
        )
        raise InvalidArgument(
            "--older-than",
            f"{unit}must be at least {span(settings.keep_finished)} (keep_finished): until then workers may"
            " recreate a row",
        )
    check_visible(settings)
    store = store_from_url(settings.store, settings, migrate=False, create=False)
    if not isinstance(store, PruningStore):
        raise InvalidArgument("store", f"{settings.shown_store} cannot be pruned by this version")
    keep = Retention(runs=age, workers=age, webhooks=age)
    await store.open()
    try:
        expected = await prune(store, keep, dry_run=True)
        if dry_run or not any(expected):
            removed = Pruned()
        else:
            _confirm(expected, age, yes=yes, as_json=as_json)
            removed = await prune(store, keep, progress=_progress())
    finally:
        await store.aclose()
    _show(expected, removed, dry_run=dry_run, as_json=as_json)
    return DONE


def _confirm(expected: Pruned, age: float, *, yes: bool, as_json: bool) -> None:
    """Raises CommandFailed without a terminal, typer.Abort if declined."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandFailed(
            "NotConfirmed",
            f"{_text(expected)} would be removed: not confirmed",
            "Add --yes to remove them, --dry-run to count them.",
            code=USAGE,
        )
    typer.confirm(f"Remove {_text(expected)} that are older than {span(age)}?", abort=True, err=True)


def _progress() -> Callable[[Pruned], None]:
    due = _PROGRESS_INTERVAL

    def report(removed: Pruned) -> None:
        nonlocal due
        if sum(removed) >= due:
            due = sum(removed) + _PROGRESS_INTERVAL
            note(f"{_text(removed)} removed")

    return report


def _text(counts: Pruned) -> str:
    return (
        f"{counted(counts.runs, 'run')}, {counted(counts.transitions, 'transition')},"
        f" {counted(counts.workers, 'dead worker')} and {counted(counts.webhooks, 'webhook')}"
    )


def _show(expected: Pruned, removed: Pruned, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        body = {"dry_run": dry_run, "found": expected._asdict(), "removed": removed._asdict()}
        screen.show_document(body)
    elif not any(expected):
        screen.show_lines(["nothing to remove"])
    elif dry_run:
        screen.show_lines([f"would remove {_text(expected)}"])
    else:
        screen.show_lines([f"removed {_text(removed)}"])
