"""The commands of `coordinator projections` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Deployment, Namespace, Redis, Store

projections = group("List projections, and remove those that have left the code.")


@projections.command(
    "list", epilog=EXIT_CODES, short_help="List projections with their pending and failing changes"
)
def projections_list(
    *, store: Store = None, redis: Redis = None, namespace: Namespace = None, as_json: AsJson = False
) -> int:
    """List projections with their pending and failing changes.

    OLDEST is the age of the oldest pending change, FAILING the number of changes whose last delivery has
    failed, FILLING whether runs that are older than the projection are still to be queued, CLAIMED the epoch
    of the worker that delivers at this moment.
    """
    from coordinator.cli.projections import list_projections

    return finish(list_projections(Deployment(store, redis, namespace).settings(), as_json=as_json))


@projections.command(
    "remove", epilog=EXIT_CODES, short_help="Remove a projection that has left the code, and its changes"
)
def projections_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the projection")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Remove a projection that no worker has any more, with its pending changes, after a confirmation.

    Until then, changes of runs are queued for it. A worker that still has the projection delivers nothing
    more until it is restarted; then the projection is new, and gets every run again.
    """
    from coordinator.cli.projections import remove_projection

    settings = Deployment(store, redis, namespace).settings()
    return finish(remove_projection(settings, name, yes=yes, as_json=as_json))
