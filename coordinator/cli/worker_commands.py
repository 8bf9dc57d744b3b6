"""The commands of `coordinator workers` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Deployment, Namespace, Redis, Store

workers = group("List and drain workers.")


@workers.command(
    "list", epilog=EXIT_CODES, short_help="List workers: state, lease, and number of held threads"
)
def workers_list(
    *,
    everyone: Annotated[bool, typer.Option("--all", help="Include dead workers")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """List workers: epoch, state, lease, and number of held threads."""
    from coordinator.cli.workers import list_workers

    return finish(
        list_workers(Deployment(store, redis, namespace).settings(), everyone=everyone, as_json=as_json)
    )


@workers.command(
    "drain", epilog=EXIT_CODES, short_help="Drain a worker: it admits no more runs, and ends its own"
)
def workers_drain(
    *,
    epoch: Annotated[int | None, typer.Argument(metavar="EPOCH", help="Epoch of the worker", min=0)] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every worker")] = False,
    grace: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time for its runs to finish", min=0, max=86_400)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: skip the confirmation")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Drain a worker: it admits no more runs, hands over its queued runs, and ends its runs after the grace.

    The worker reads the request at its next tick, within about a second. Its process stays: to end it, send
    SIGTERM. --all requests a confirmation.
    """
    from coordinator.cli.workers import drain_workers

    if everyone is (epoch is not None):
        raise typer.BadParameter("give the epoch of one worker, or --all")
    if yes and not everyone:
        raise typer.BadParameter("--yes requires --all")
    settings = Deployment(store, redis, namespace).settings()
    return finish(drain_workers(settings, epoch, grace=grace, yes=yes, as_json=as_json))
