"""webhooks list, webhooks retry, webhooks stop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from coordinator.arguments import check_choice, check_optional_id
from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import webhook_document
from coordinator.cli.failures import DONE, CommandFailed, note_next_page
from coordinator.cli.ids import optional_id, whole_id
from coordinator.cli.text import counted, short, span
from coordinator.errors import InvalidArgument
from coordinator.manager import RunManager
from coordinator.settings import Settings
from coordinator.webhooks.document import without_path
from stores.states import WebhookState
from stores.webhooks import PENDING, WebhookRow

COLUMNS = ("RUN", "STATE", "TRIED", "STATUS", "TO", "NEXT", "AGE", "USER", "ERROR")
SPARE = ("USER", "AGE", "TO", "STATUS")
"""See `coordinator.cli.runs.SPARE`."""


async def list_webhooks(
    settings: Settings,
    *,
    states: Sequence[str],
    run: str | None,
    user: str | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> int:
    wanted = [check_choice("--state", state, tuple(WebhookState)) for state in states]
    user_id = check_optional_id("--user", user)
    async with observing(settings) as observer:
        run_id = await optional_id(observer.store, "webhook", run, argument="--run")
        webhooks = await observer.manager.webhooks.search(
            states=wanted, run_id=run_id, user_id=user_id, limit=offset + limit + 1
        )
    next_offset = offset + limit if len(webhooks) > offset + limit else None
    page = webhooks[offset : offset + limit]
    if as_json:
        screen.show_document({"webhooks": [webhook_document(one) for one in page], "offset": next_offset})
    else:
        none = f"no such webhooks in {settings.shown_store}"
        screen.show_table(COLUMNS, [_line(one) for one in page], none=none, spare=SPARE)
        note_next_page(next_offset)
    return DONE


def _line(row: WebhookRow) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000
    due = None
    if row.state is WebhookState.due and row.next_at is not None:
        due = f"in {span((row.next_at - now) / 1e6)}" if row.next_at > now else "now"
    return [
        row.run_id,
        screen.state(row.state),
        row.attempts,
        row.status_code,
        short(without_path(row.url), 60),
        due,
        span((now - row.created_at) / 1e6),
        row.user_id,
        None if row.error is None else short(row.error, 60),
    ]


async def retry_webhooks(
    settings: Settings, *, runs: Sequence[str], everything: bool, user: str | None, as_json: bool
) -> int:
    """Retry all given webhooks, or none: if one is not dead, it is reported before any write."""
    if bool(runs) == everything:
        raise InvalidArgument("RUN", "give runs, or --all")
    user_id = check_optional_id("--user", user)
    async with observing(settings) as observer:
        given = [await whole_id(observer.store, "webhook", run, argument="RUN") for run in runs]
        wanted = list(dict.fromkeys(given))
        for run_id in wanted:
            await _check_dead(observer.manager, settings, run_id, user_id)
        revived = await observer.manager.webhooks.revive(wanted or None, user_id=user_id)
    if as_json:
        screen.show_document({"retried": revived})
    else:
        due = f"{counted(len(revived), 'webhook')} {'is' if len(revived) == 1 else 'are'} due again"
        screen.show_lines([due if revived else "no webhook is dead"])
    return DONE


async def stop_webhooks(
    settings: Settings, *, runs: Sequence[str], everything: bool, user: str | None, as_json: bool
) -> int:
    """Stop all given webhooks, or none: if one is not pending, it is reported before any write."""
    if bool(runs) == (everything or user is not None):
        raise InvalidArgument("RUN", "give runs, --user or --all")
    user_id = check_optional_id("--user", user)
    async with observing(settings) as observer:
        given = [await whole_id(observer.store, "webhook", run, argument="RUN") for run in runs]
        wanted = list(dict.fromkeys(given))
        for run_id in wanted:
            await _check_pending(observer.manager, settings, run_id)
        stopped = await observer.manager.webhooks.stop(wanted or None, user_id=user_id)
    if as_json:
        screen.show_document({"stopped": stopped})
    else:
        screen.show_lines(
            [f"{counted(len(stopped), 'webhook')} stopped" if stopped else "no webhook is pending"]
        )
    return DONE


async def _check_pending(manager: RunManager, settings: Settings, run_id: str) -> None:
    state = await _state(manager, settings, run_id, None)
    if state not in PENDING:
        raise CommandFailed(
            "WebhookNotPending",
            f"the webhook of run {run_id!r} is {state}: nothing to stop",
            "`coordinator webhooks list --state waiting --state due` shows the pending webhooks.",
            run_id=run_id,
        )


async def _check_dead(manager: RunManager, settings: Settings, run_id: str, user_id: str | None) -> None:
    state = await _state(manager, settings, run_id, user_id)
    if state is not WebhookState.dead:
        raise CommandFailed(
            "WebhookNotDead",
            f"the webhook of run {run_id!r} is {state}, not dead",
            "`coordinator webhooks list --state dead` shows the dead webhooks.",
            run_id=run_id,
        )


async def _state(manager: RunManager, settings: Settings, run_id: str, user_id: str | None) -> WebhookState:
    """Return the state of a run's webhook. Raises CommandFailed if it has none."""
    webhooks = await manager.webhooks.search(run_id=run_id, user_id=user_id, limit=1)
    if not webhooks:
        raise CommandFailed(
            "WebhookNotFound",
            f"run {run_id!r} has no webhook in {settings.shown_store}",
            "`coordinator webhooks list` shows the existing webhooks.",
            run_id=run_id,
        )
    return webhooks[0].state
