"""The commands of `coordinator runs`, and `explain`, with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import (
    EXIT_CODES,
    AsJson,
    Assistant,
    Deployment,
    Limit,
    Metadata,
    Namespace,
    Redis,
    Store,
    User,
)

runs = group("List, show, follow and cancel runs.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id, or a unique prefix")]
RunOrFilters = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Run id, or a unique prefix; omit it to use filters")
]

# Filters
Thread = Annotated[str | None, typer.Option("--thread", metavar="THREAD", help="Only on this thread")]
Status = Annotated[
    list[str] | None, typer.Option("--status", metavar="STATUS", help="Only with this status; repeatable")
]
OpenStatus = Annotated[
    str | None,
    typer.Option("--status", metavar="pending|running|all", help="Runs in flight: pending, running, or all"),
]
InFlight = Annotated[bool, typer.Option("--in-flight", help="Only runs that hold a thread or have not ended")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="AGE|ISO", help="Only created since: 45 (seconds), 90m, 12h, or a time"),
]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", metavar="AGE", help="Only created before: 45 (seconds), 90m, 12h, 30d"),
]
SilentFor = Annotated[
    str | None,
    typer.Option(
        "--silent-for",
        metavar="AGE",
        help="Only running, without a save, checkpoint or progress report for this time. Events do not count",
    ),
]

# Pages of `runs list`
Before = Annotated[
    str | None,
    typer.Option("--before", metavar="RUN", help="Only runs after this one in the list: next page"),
]
Wide = Annotated[bool, typer.Option("--wide", help="Show all columns on a narrow terminal")]

# What `runs cancel` does
DryRun = Annotated[bool, typer.Option("--dry-run", help="Filters: count only")]
Yes = Annotated[bool, typer.Option("--yes", help="Filters: skip the confirmation")]
Action = Annotated[
    str,
    typer.Option("--action", metavar="interrupt|rollback", help="Keep the thread's values, or restore them"),
]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Reason, for the history")]
Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Actor, for the history. Default: cli:<your user name>"),
]
Wait = Annotated[
    float | None,
    typer.Option("--wait", metavar="SECONDS", min=0, help="RUN: wait until the run has settled"),
]


@runs.command("list", epilog=EXIT_CODES, short_help="List runs, newest first")
def runs_list(
    *,
    thread: Thread = None,
    status: Status = None,
    in_flight: InFlight = False,
    assistant: Assistant = None,
    user: User = None,
    metadata: Metadata = None,
    since: Since = None,
    older_than: OlderThan = None,
    silent_for: SilentFor = None,
    before: Before = None,
    limit: Limit = 50,
    wide: Wide = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """List runs, newest first: status, assistant, age, and error.

    A run in flight shows its phase: waiting, pending, running, cancelling or rolling back. PLACE is the
    position in the queue of its thread, OWNER the epoch of its worker. A narrow terminal shows fewer columns;
    ids are never truncated. If there are more runs, stderr shows the option for the next page.
    """
    from coordinator.cli.runs import RunFilters, list_runs

    filters = RunFilters(
        thread, tuple(status or ()), in_flight, assistant, user, tuple(metadata or ()), since, older_than,
        silent_for, before, limit,
    )  # fmt: skip
    settings = Deployment(store, redis, namespace).settings()
    return finish(list_runs(settings, filters, wide=wide, as_json=as_json))


@runs.command("show", epilog=EXIT_CODES, short_help="Show a run with its arguments, result and cancel")
def runs_show(
    run_id: Run,
    *,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Show a run with its arguments, result and cancel."""
    from coordinator.cli.runs import show_run

    return finish(show_run(Deployment(store, redis, namespace).settings(), run_id, as_json=as_json))


@runs.command("follow", epilog=EXIT_CODES, short_help="Follow the events of a run until it ends")
def runs_follow(
    run_id: Run,
    *,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="ID", help="Only events after this one; $ = only new events"),
    ] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option("--mode", metavar="MODE", help="Only this mode; repeatable"),
    ] = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Follow the events of a run from the beginning until it ends. With --json, one line per event, gap and
    end.

    Events are read from the event log of the deployment, in Redis or in the store. "-- missing" marks a gap
    in the log.
    """
    from coordinator.cli.follow import follow_run

    settings = Deployment(store, redis, namespace).settings()
    return finish(follow_run(settings, run_id, after=after, modes=modes, as_json=as_json))


@runs.command("cancel", epilog=EXIT_CODES, short_help="Cancel a run, or all runs that match filters")
def runs_cancel(
    run_id: RunOrFilters = None,
    *,
    status: OpenStatus = None,
    thread: Thread = None,
    assistant: Assistant = None,
    user: User = None,
    metadata: Metadata = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    action: Action = "interrupt",
    reason: Reason = None,
    actor: Actor = None,
    wait: Wait = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Cancel a run on any worker. Returns when the cancel is committed; with --wait, when the thread is free.

    With filters instead of RUN: all runs in flight that match, after a confirmation with their number. Runs
    admitted later are not cancelled. After an interruption, repeat the command: it continues with the rest.

    If Redis is unreachable, the cancel is committed nevertheless; the worker reads it at its next tick.
    """
    from coordinator.cli.cancel import CancelOptions, cancel_run
    from coordinator.cli.cancel_many import Filters, cancel_many

    filters = Filters(status, thread, assistant, user, tuple(metadata or ()), older_than)
    _check_target(run_id, any(filters), of_filters=dry_run or yes, wait=wait)
    options, settings = CancelOptions(action, reason, actor), Deployment(store, redis, namespace).settings()
    if run_id is not None:
        return finish(cancel_run(settings, run_id, options, wait=wait, as_json=as_json))
    return finish(cancel_many(settings, filters, options, dry_run=dry_run, yes=yes, as_json=as_json))


def _check_target(run_id: str | None, filtered: bool, *, of_filters: bool, wait: float | None) -> None:
    """Raises typer.BadParameter unless either a run or filters are given, with options that apply to them."""
    if (run_id is not None) is filtered:
        raise typer.BadParameter("give one run, or filters: --status all selects every run in flight")
    if run_id is not None and of_filters:
        raise typer.BadParameter("--dry-run and --yes require filters")
    if run_id is None and wait is not None:
        raise typer.BadParameter(
            "--wait requires RUN: `coordinator runs list --in-flight` shows the runs that have not settled"
        )


def explain(
    run_id: Run,
    *,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Show the history of a run: times, transitions, actors, causes, epochs, fences; and its current
    state."""
    from coordinator.cli.explain import explain

    return finish(explain(Deployment(store, redis, namespace).settings(), run_id, as_json=as_json))
