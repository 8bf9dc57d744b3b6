"""The commands of `coordinator webhooks` and `coordinator crons` and their options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Deployment, Namespace, Redis, Store

webhooks = group("List, retry and stop webhooks.")
crons = group("List, disable and delete crons.")


def _filter(noun: str, *flags: str) -> Any:  # Any: as typer.Option
    return typer.Option(*flags, metavar="ID", help=f"Only of this {noun}")


User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only of this user")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Maximum number")]
Offset = Annotated[int, typer.Option("--offset", metavar="N", min=0, help="Number to skip: the next page")]


@webhooks.command("list", epilog=EXIT_CODES)
def webhooks_list(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only waiting, due, delivered or dead; repeatable",
        ),
    ] = None,
    run: Annotated[str | None, _filter("run", "--run")] = None,
    user: User = None,
    limit: Limit = 50,
    offset: Offset = 0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """List webhooks, newest first: attempts, last result, and time of the next attempt.

    URLs are shown without their path, which may contain a secret.
    """
    from coordinator.cli.webhooks import list_webhooks

    settings = Deployment(store, redis, namespace).settings()
    return finish(
        list_webhooks(
            settings,
            states=tuple(state or ()),
            run=run,
            user=user,
            limit=limit,
            offset=offset,
            as_json=as_json,
        )
    )


@webhooks.command("retry", epilog=EXIT_CODES)
def webhooks_retry(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN…", help="Runs with dead webhooks")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All dead webhooks")] = False,
    user: User = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Retry dead webhooks with the full number of attempts. Servers send them within seconds."""
    from coordinator.cli.webhooks import retry_webhooks

    settings = Deployment(store, redis, namespace).settings()
    return finish(
        retry_webhooks(settings, runs=tuple(runs or ()), everything=everything, user=user, as_json=as_json)
    )


@webhooks.command("stop", epilog=EXIT_CODES)
def webhooks_stop(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Runs with waiting or due webhooks")
    ] = None,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="All of this user")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All users")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Give up waiting and due webhooks: they become dead. An attempt in progress is not interrupted.

    `webhooks retry` retries those that were due; a webhook of a run that had not ended is never sent.
    """
    from coordinator.cli.webhooks import stop_webhooks

    settings = Deployment(store, redis, namespace).settings()
    return finish(
        stop_webhooks(settings, runs=tuple(runs or ()), everything=everything, user=user, as_json=as_json)
    )


@crons.command("list", epilog=EXIT_CODES)
def crons_list(
    *,
    assistant: Annotated[str | None, _filter("assistant", "--assistant")] = None,
    thread: Annotated[str | None, _filter("thread", "--thread")] = None,
    user: User = None,
    enabled: Annotated[
        bool | None, typer.Option("--enabled/--disabled", help="Only enabled, or only disabled")
    ] = None,
    limit: Limit = 50,
    offset: Offset = 0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """List crons, newest first: schedule, next time, last run and last error."""
    from coordinator.cli.crons import list_crons

    settings = Deployment(store, redis, namespace).settings()
    return finish(
        list_crons(
            settings,
            assistant=assistant,
            thread=thread,
            user=user,
            enabled=enabled,
            limit=limit,
            offset=offset,
            as_json=as_json,
        )
    )


Cron = Annotated[str | None, typer.Argument(metavar="[CRON]", help="Cron id")]
AllOf = Annotated[str | None, typer.Option("--user", metavar="ID", help="All crons of this user")]


@crons.command("disable", epilog=EXIT_CODES)
def crons_disable(
    cron_id: Cron = None,
    *,
    user: AllOf = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Disable a cron, or all crons of a user. Their runs in flight continue.

    A PATCH of the cron with {"enabled": true} enables it again.
    """
    from coordinator.cli.crons import disable_crons

    settings = Deployment(store, redis, namespace).settings()
    return finish(disable_crons(settings, cron_id, user=user, as_json=as_json))


@crons.command("delete", epilog=EXIT_CODES)
def crons_delete(
    cron_id: Cron = None,
    *,
    user: AllOf = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Delete a cron, or all crons of a user. Their runs in flight continue."""
    from coordinator.cli.crons import delete_crons

    settings = Deployment(store, redis, namespace).settings()
    return finish(delete_crons(settings, cron_id, user=user, as_json=as_json))
