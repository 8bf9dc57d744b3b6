"""What goes on for a user whose last key was revoked."""

from __future__ import annotations

import shlex

from coordinator.cli.access import looking_at
from coordinator.cli.awaiting import finish
from coordinator.cli.failures import CommandFailed, warn
from coordinator.cli.options import Where
from coordinator.cli.text import counted
from coordinator.errors import CoordinatorError
from coordinator.facade.pending_work import PendingWork


def work_without_key(user_id: str, store: str | None) -> PendingWork | None:
    """None, with a warning, where the store cannot be asked: the key is revoked all the same."""

    async def ask() -> PendingWork:
        async with looking_at(Where(store).settings()) as seen:
            return await seen.manager.pending_work(user_id)

    found: list[PendingWork] = []

    async def keep() -> int:
        found.append(await ask())
        return 0

    try:
        finish(keep())
    except (CoordinatorError, CommandFailed) as error:
        warn(
            f"user {user_id!r} has no key left. Whether crons or webhooks go on is not known: {error}"
            f" Ask again: coordinator crons list --user {shlex.quote(user_id)}"
        )
        return None
    return found[0]


def sentences_of(user_id: str, work: PendingWork) -> list[str]:
    if not any(work):
        return [f"user {user_id!r} has no key left, and no crons or webhooks that go on"]
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
