"""The commands that clean up: `reconcile` and `prune`, with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.options import AsJson, Namespace, Redis, Store, Where


def reconcile_orphans(
    *,
    error: Annotated[
        str,
        typer.Option("--error", metavar="TEXT", help="Error text of the runs that are ended"),
    ] = "Ended by reconcile: the worker that ran this is gone.",
    before: Annotated[
        str | None, typer.Option("--before", metavar="ISO", help="Only runs created before this time")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            help="Watch the heartbeats of workers that hold threads, for one lease at most",
        ),
    ] = True,
    force: Annotated[
        int | None,
        typer.Option("--force", metavar="EPOCH", min=1, help="Declare this worker dead, after a question"),
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who declares it dead, for the audit (you)")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """End orphaned runs: those of dead workers, and those without a worker. Never a run whose owner lives.

    A worker of this host whose process is gone is proven dead at once. Of any other that holds
    threads, or whose lease is over, the command watches the heartbeat: one that moves is alive (it takes a
    few seconds), one that stands still for a whole lease is dead, frozen processes included. It exits with 1
    where it cannot tell.
    With --no-wait it watches none, and names those that it did not watch.

    --force declares a worker dead on your word: its writes are refused from then on, its runs end, and their
    history names you. If it lives all the same, its tasks go on until its next heartbeat: until then two runs
    of one thread may be at work. Refused for a process of this host that is there: end that.
    """
    from coordinator.cli.reconcile import Asked, reconcile

    settings = Where(store, redis, namespace).settings()
    asked = Asked(error, before, wait, force, actor, yes)
    return finish(reconcile(settings, asked, as_json=as_json))


def prune_old(
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="What was over before that: 12h, 30d, 2w")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Remove runs that settled long ago, their history, and workers that died long ago.

    Kept: what is in flight, the last run of each thread, threads with their fences, and for 24 h runs with an
    idempotency key. In small transactions: workers go on meanwhile.
    """
    from coordinator.cli.prune import prune_history

    settings = Where(store, redis, namespace).settings()
    return finish(prune_history(settings, older_than=older_than, dry_run=dry_run, yes=yes, as_json=as_json))
