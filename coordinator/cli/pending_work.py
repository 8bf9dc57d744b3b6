"""Pending work of a user whose last key was revoked."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from coordinator.cli.access import observing
from coordinator.cli.awaiting import finish
from coordinator.cli.failures import CommandFailed, warn
from coordinator.cli.options import Deployment
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


def read_pending_work(user_id: str, store: str | None) -> tuple[PendingWork, str] | None:
    """Return the pending work and the store's URL. Prints a warning and returns None if the store cannot be
    read: the key is revoked nevertheless."""

    async def read() -> tuple[PendingWork, str]:
        settings = Deployment(store).settings()
        async with observing(settings) as observer:
            return await pending_work(observer.manager, user_id), settings.shown_store

    results: list[tuple[PendingWork, str]] = []

    async def collect() -> int:
        results.append(await read())
        return 0

    try:
        finish(collect())
    except (CoordinatorError, CommandFailed) as error:
        why = f"{error}. {error.hint}." if isinstance(error, CommandFailed) and error.hint else str(error)
        warn(
            f"user {user_id!r} has no key left. Its enabled crons and pending webhooks are unknown: {why}"
            f" Retry: coordinator crons list --user {shlex.quote(user_id)}"
        )
        return None
    return results[0]


def describe(user_id: str, work: PendingWork, store: str) -> list[str]:
    if not any(work):
        return [f"user {user_id!r} has no key left, and no enabled crons or pending webhooks in {store}"]
    user = shlex.quote(user_id)
    parts = [
        (work.crons, "cron", "will fire", f"coordinator crons disable --user {user}"),
        (work.webhooks, "webhook", "will be sent", f"coordinator webhooks stop --user {user}"),
    ]
    return [
        f"user {user_id!r} has no key left, and {counted(count, noun)} {effect}; to stop this: {command}"
        for count, noun, effect, command in parts
        if count
    ]
