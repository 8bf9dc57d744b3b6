"""What goes on for a user whose last key was revoked."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from coordinator.cli.access import looking_at
from coordinator.cli.awaiting import finish
from coordinator.cli.failures import CommandFailed, warn
from coordinator.cli.options import Where
from coordinator.cli.text import counted
from coordinator.errors import CoordinatorError
from coordinator.manager import RunManager
from stores.crons import CronQuery
from stores.webhooks import PENDING


class PendingWork(NamedTuple):
    crons: int
    """Enabled ones."""
    webhooks: int
    """Those that wait for the end of their run, or are due."""


async def pending_work(manager: RunManager, user_id: str) -> PendingWork:
    crons, webhooks = manager.crons, manager.webhooks
    return PendingWork(
        await crons.count(CronQuery(enabled=True), user_id=user_id) if crons.kept else 0,
        await webhooks.count(states=PENDING, user_id=user_id) if webhooks.kept else 0,
    )


def work_without_key(user_id: str, store: str | None) -> tuple[PendingWork, str] | None:
    """And the store that was asked. None, with a warning, where it cannot be asked: the key is revoked all
    the same."""

    async def ask() -> tuple[PendingWork, str]:
        settings = Where(store).settings()
        async with looking_at(settings) as seen:
            return await pending_work(seen.manager, user_id), settings.shown_store

    found: list[tuple[PendingWork, str]] = []

    async def keep() -> int:
        found.append(await ask())
        return 0

    try:
        finish(keep())
    except (CoordinatorError, CommandFailed) as error:
        why = f"{error}. {error.hint}." if isinstance(error, CommandFailed) and error.hint else str(error)
        warn(
            f"user {user_id!r} has no key left. Whether crons or webhooks go on is not known: {why}"
            f" Ask again: coordinator crons list --user {shlex.quote(user_id)}"
        )
        return None
    return found[0]


def sentences_of(user_id: str, work: PendingWork, store: str) -> list[str]:
    if not any(work):
        return [f"user {user_id!r} has no key left, and no crons or webhooks in {store} that go on"]
    user = shlex.quote(user_id)
    told = [
        (work.crons, "cron", "will fire", f"coordinator crons disable --user {user}"),
        (work.webhooks, "webhook", "will be sent", f"coordinator webhooks stop --user {user}"),
    ]
    return [
        f"user {user_id!r} has no key left, and {counted(count, noun)} {what}; to stop this: {command}"
        for count, noun, what, command in told
        if count
    ]
