"""The commands `reconcile` and `prune` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.options import AsJson, Deployment, Namespace, Redis, Store

ErrorText = Annotated[str, typer.Option("--error", metavar="TEXT", help="Error text of the ended runs")]
Before = Annotated[
    str | None, typer.Option("--before", metavar="ISO", help="Only runs created before this time")
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Watch the heartbeats of workers that hold threads, for at most one lease"
    ),
]
Force = Annotated[
    int | None,
    typer.Option("--force", metavar="EPOCH", min=1, help="Declare this worker dead, after a confirmation"),
]
Actor = Annotated[
    str | None, typer.Option("--actor", metavar="NAME", help="Actor of --force in the audit. Default: you")
]


def reconcile_orphans(
    *,
    error: ErrorText = "Ended by reconcile: the worker of this run is dead.",
    before: Before = None,
    wait: Wait = True,
    force: Force = None,
    actor: Actor = None,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """End orphaned runs: runs of dead workers, and runs without a worker. Never ends a run of a live worker.

    A worker of this host whose process has exited is dead immediately. For any other worker that holds
    threads, or whose lease has expired, the command watches the heartbeat: a worker that renews it is alive
    (takes a few seconds); a worker without renewal for a full lease is dead, including frozen processes. Exit
    code 1: a worker is neither proven dead nor observed alive. With --no-wait no heartbeat is watched, and
    the unwatched workers are listed.

    --force declares a worker dead: its writes are refused, its runs end, and their history records you as the
    actor. If its process is alive, its tasks continue until its next heartbeat; until then two runs of one
    thread may execute. Refused for a process that is alive on this host: kill it first.
    """
    from coordinator.cli.reconcile import ReconcileOptions, reconcile

    settings = Deployment(store, redis, namespace).settings()
    options = ReconcileOptions(error, before, wait, force, actor, yes)
    return finish(reconcile(settings, options, as_json=as_json))


def prune_old(
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Only what ended before that: 12h, 30d, 2w")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Remove settled runs with their history, ended webhooks, and dead workers, older than --older-than.

    Kept: runs in flight, the last run of each thread, threads with their fences, and runs with an idempotency
    key for 24 h. Removes in small transactions that do not block workers.
    """
    from coordinator.cli.prune import prune_history

    settings = Deployment(store, redis, namespace).settings()
    return finish(prune_history(settings, older_than=older_than, dry_run=dry_run, yes=yes, as_json=as_json))
