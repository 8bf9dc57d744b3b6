"""runs cancel: commits the cancel in the store, then notifies the run's worker. Registers no worker."""

from __future__ import annotations

import asyncio
import getpass
import time
from typing import NamedTuple

from coordinator.arguments import check_action
from coordinator.bootstrap import Observer
from coordinator.cli import screen
from coordinator.cli.access import observing, run_or_fail
from coordinator.cli.documents import receipt_document
from coordinator.cli.failures import DONE, CommandFailed, warn
from coordinator.cli.owners import Owners
from coordinator.cli.text import span
from coordinator.errors import NotSettled
from coordinator.schemas import Cause, Receipt, RunStatus
from coordinator.settings import Settings
from stores.rows import RunRow, WorkerRow

_FORCE_TAKES = 1.0  # s; to write the end of a run that is forced


class CancelOptions(NamedTuple):
    """Action, and reason and actor for the history. `actor` None = the user who runs this command."""

    action: str = "interrupt"
    reason: str | None = None
    actor: str | None = None


async def cancel_run(
    settings: Settings, run: str, options: CancelOptions, *, wait: float | None, as_json: bool
) -> int:
    check_action(options.action)
    async with observing(settings) as observer:
        pinging = asyncio.ensure_future(observer.redis_answers())  # connects while the cancel commits
        row = await run_or_fail(observer.store, settings, run)
        run_id = row.run_id
        cancelled = await observer.manager.cancel(
            run_id,
            action=options.action,
            reason=options.reason,
            actor=options.actor or current_actor(),
            cause=Cause.admin,
        )
        if not cancelled:
            raise await _refused(observer, settings, run_id)
        redis = await pinging
        if redis is False:
            warn_without_redis(f"the cancel of run {run_id!r} is")
        if wait is not None:
            await _until_settled(observer, settings, run_id, wait)
        receipt = await observer.manager.runs.receipt(run_id)
        progress = _progress(
            await Owners.read(observer.store), await run_or_fail(observer.store, settings, run_id), settings
        )
    already = row.status is RunStatus.interrupted
    if as_json:
        _show_document(row, receipt, already=already, redis=redis)
    else:
        screen.show_lines(_lines(row, receipt, progress, already=already))
    return DONE


def warn_without_redis(what: str) -> None:
    """`what`: subject and verb, as "the cancel is"."""
    warn(f"Redis does not answer: {what} committed nevertheless; workers read it at their next tick")


def current_actor() -> str:
    """The user who runs this command, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in containers
        return "cli"


async def _refused(observer: Observer, settings: Settings, run_id: str) -> CommandFailed:
    row = await run_or_fail(observer.store, settings, run_id)
    return CommandFailed(
        "NotCancellable",
        f"run {run_id!r} has ended with status {row.status.value} and can no longer be cancelled",
        f"`coordinator explain {run_id}` shows how it ended.",
        run_id=run_id,
        thread_id=row.thread_id,
    )


async def _until_settled(observer: Observer, settings: Settings, run_id: str, wait: float) -> None:
    try:
        await observer.manager.wait(run_id, timeout=wait)
    except TimeoutError:
        row = await run_or_fail(observer.store, settings, run_id)
        raise CommandFailed(
            NotSettled.__name__,
            f"the cancel of run {run_id!r} is committed, but its task has not stopped within {wait:g} s",
            _advice(await Owners.read(observer.store), row, settings),
            run_id=run_id,
        ) from None


def _advice(owners: Owners, row: RunRow, settings: Settings) -> str:
    if (loss := owners.loss(row)) is not None:
        return f"{loss[0].upper()}{loss[1:]}."
    if (owner := owners.live(row)) is not None and _is_overdue(row, settings):
        return f"{_silent(owner, settings)}."
    return (
        f"The thread is freed when the task stops, or by force {span(settings.force_after)} after the cancel"
        " (force_after of its worker), unless the event loop of its worker is blocked: then the worker"
        " neither reads the cancel nor forces the run. Repeat the command to see whether it answers."
    )


def _is_overdue(row: RunRow, settings: Settings) -> bool:
    """Whether a worker whose event loop runs would have freed the thread by now, at the latest by force."""
    if row.cancel_requested_at is None:
        return False
    waited = time.time() - row.cancel_requested_at / 1e6
    return waited > settings.force_after + 2 * settings.tick + _FORCE_TAKES


def _silent(owner: WorkerRow, settings: Settings) -> str:
    dead_after = settings.stall_limit + owner.ttl_ms / 1000
    return (
        f"Worker epoch {owner.epoch} does not answer, although its lease is valid: its event loop is probably"
        " blocked, and so it neither stops the task nor frees the thread by force. Its log names the blocking"
        f" code. If it stays blocked, it is declared dead by its peers or `coordinator reconcile`"
        f" {span(dead_after)} after the block began (stall_limit and its lease). To end it now, with all of"
        f" its runs: kill -9 {owner.pid} on host {owner.host}"
    )


def _show_document(row: RunRow, receipt: Receipt, *, already: bool, redis: bool | None) -> None:
    screen.show_document(
        {
            "cancel": {
                "run_id": row.run_id,
                "thread_id": row.thread_id,
                "already": already,
                "settled": receipt.settled is not None,
                "redis": {None: None, True: "ok", False: "unreachable"}[redis],
                **receipt_document(receipt),
            }
        }
    )


def _progress(owners: Owners, row: RunRow, settings: Settings) -> str:
    """The state of a cancel that is committed, but not settled. `row`: after the cancel."""
    if (loss := owners.loss(row)) is not None:
        return loss
    if (owner := owners.live(row)) is not None and _is_overdue(row, settings):
        return _silent(owner, settings)
    return f"worker epoch {row.owner_epoch} is stopping its task; --wait SECONDS waits for it"


def _lines(row: RunRow, receipt: Receipt, progress: str, *, already: bool) -> list[str]:
    run = f"run {row.run_id!r} on thread {row.thread_id!r}"
    if already:
        by = f" by {receipt.actor}" if receipt.actor else ""
        first = f"{run} was already interrupted{by}: nothing changed"
    else:
        first = f"{run} is cancelled ({receipt.action}): committed"
    if receipt.settled is not None:
        return [first, "its thread is free"]
    return [first, progress]
