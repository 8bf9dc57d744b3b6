"""The commands of `coordinator webhooks` and `coordinator crons` and their options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS, AsJson, Namespace, Redis, Store, Where


def _group(about: str) -> typer.Typer:
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=EXIT_CODES,
        context_settings=HELP_OPTIONS,
    )


webhooks = _group("Webhooks: list, retry and stop them.")
crons = _group("Crons: list, disable and delete them.")


def _only(what: str, *flags: str) -> Any:
    return typer.Option(*flags, metavar="ID", help=f"Only this {what}")


User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this user's")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many")]
Offset = Annotated[int, typer.Option("--offset", metavar="N", min=0, help="Skip so many: the next page")]


@webhooks.command("list", epilog=EXIT_CODES)
def webhooks_list(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only waiting, due, delivered or dead ones; repeat it for several",
        ),
    ] = None,
    run: Annotated[str | None, _only("run's", "--run")] = None,
    user: User = None,
    limit: Limit = 50,
    offset: Offset = 0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Webhooks, newest first: how often each was tried, what it came to, and when it is tried next.

    Of a URL only the host is shown: its path may be a secret.
    """
    from coordinator.cli.webhooks import list_webhooks

    settings = Where(store, redis, namespace).settings()
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
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Runs whose webhooks were given up")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that were given up")] = False,
    user: User = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Send again what was given up, with all attempts before it. Servers do it within seconds."""
    from coordinator.cli.webhooks import retry_webhooks

    settings = Where(store, redis, namespace).settings()
    return finish(
        retry_webhooks(settings, runs=tuple(runs or ()), everything=everything, user=user, as_json=as_json)
    )


@webhooks.command("stop", epilog=EXIT_CODES)
def webhooks_stop(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Runs whose webhooks are waiting or due")
    ] = None,
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="All of this user's")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everybody's")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Give up what is waiting or due: it is dead then. An attempt that is under way is not broken off.

    `webhooks retry` sends again what was due; there is nothing to send of a run that had not ended.
    """
    from coordinator.cli.webhooks import stop_webhooks

    settings = Where(store, redis, namespace).settings()
    return finish(
        stop_webhooks(settings, runs=tuple(runs or ()), everything=everything, user=user, as_json=as_json)
    )


@crons.command("list", epilog=EXIT_CODES)
def crons_list(
    *,
    assistant: Annotated[str | None, _only("assistant's", "--assistant")] = None,
    thread: Annotated[str | None, _only("thread's", "--thread")] = None,
    user: User = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Only such")] = None,
    limit: Limit = 50,
    offset: Offset = 0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Crons, newest first: schedule, when each is due next, and what became of its last moment."""
    from coordinator.cli.crons import list_crons

    settings = Where(store, redis, namespace).settings()
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
AllOf = Annotated[str | None, typer.Option("--user", metavar="ID", help="All of this user's crons")]


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
    """Disable a cron, or all of a user's. Runs that they have begun go on.

    A PATCH of the cron with {"enabled": true} starts it again.
    """
    from coordinator.cli.crons import disable_crons

    settings = Where(store, redis, namespace).settings()
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
    """Delete a cron, or all of a user's. Runs that they have begun go on."""
    from coordinator.cli.crons import delete_crons

    settings = Where(store, redis, namespace).settings()
    return finish(delete_crons(settings, cron_id, user=user, as_json=as_json))
