"""The commands of `coordinator workers` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Namespace, Redis, Store, Where

workers = group("The workers of the deployment.")


@workers.command("list", epilog=EXIT_CODES, short_help="Workers: state, lease, and threads that each holds")
def workers_list(
    *,
    everyone: Annotated[bool, typer.Option("--all", help="Dead workers as well")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Workers: epoch, state, lease, and how many threads each holds."""
    from coordinator.cli.workers import list_workers

    return finish(list_workers(Where(store, redis, namespace).settings(), everyone=everyone, as_json=as_json))


@workers.command("drain", epilog=EXIT_CODES, short_help="Ask a worker to admit nothing more, and to leave")
def workers_drain(
    *,
    epoch: Annotated[int | None, typer.Argument(metavar="EPOCH", help="Which worker", min=0)] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every worker")] = False,
    grace: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="What its runs get to finish", min=0, max=86_400)
    ] = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Ask a worker to admit nothing more, hand over what waits, and end its runs after the grace.

    It finds out within a second or so. Its process goes on: to end it, signal it.
    """
    from coordinator.cli.workers import drain_workers

    if everyone is (epoch is not None):
        raise typer.BadParameter("name one worker by its epoch, or --all")
    settings = Where(store, redis, namespace).settings()
    return finish(drain_workers(settings, epoch, grace=grace, as_json=as_json))
