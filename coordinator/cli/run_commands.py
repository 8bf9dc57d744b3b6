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
    Limit,
    Metadata,
    Namespace,
    Redis,
    Store,
    User,
    Where,
)

runs = group("List, show, follow and cancel runs.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id, or how it begins if no other does")]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", metavar="AGE", help="Only created before that: 45 (seconds), 90m, 12h, 30d"),
]


@runs.command("list", epilog=EXIT_CODES, short_help="Runs, newest first")
def runs_list(
    *,
    thread: Annotated[
        str | None, typer.Option("--thread", metavar="THREAD", help="Only on this thread")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only this status; repeat it for several"),
    ] = None,
    in_flight: Annotated[
        bool, typer.Option("--in-flight", help="Only what holds its thread or has not ended")
    ] = False,
    assistant: Assistant = None,
    user: User = None,
    metadata: Metadata = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="AGE|ISO", help="Only created since then: 45 (seconds), 90m, 12h, or a time"
        ),
    ] = None,
    older_than: OlderThan = None,
    silent_for: Annotated[
        str | None,
        typer.Option(
            "--silent-for",
            metavar="AGE",
            help="Only running, without a save or a report of progress for so long. Events do not count",
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="RUN", help="Go on behind this run: the next page")
    ] = None,
    limit: Limit = 50,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, however wide the terminal is")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Runs, newest first: status, assistant, age, and what a failed one failed with.

    A run in flight shows its phase: waiting, pending, running, cancelling or rolling back. PLACE is its place
    in the queue of its thread, OWNER the epoch of its worker. A narrow terminal shows fewer columns, ids
    always whole; --wide shows all. If there are more runs, stderr says how to go on.
    """
    from coordinator.cli.runs import Listing, list_runs

    listing = Listing(
        thread=thread,
        statuses=tuple(status or ()),
        in_flight=in_flight,
        assistant=assistant,
        user=user,
        metadata=tuple(metadata or ()),
        since=since,
        older_than=older_than,
        silent_for=silent_for,
        before=before,
        limit=limit,
    )
    settings = Where(store, redis, namespace).settings()
    return finish(list_runs(settings, listing, wide=wide, as_json=as_json))


@runs.command("show", epilog=EXIT_CODES, short_help="One run with its arguments, result and cancel")
def runs_show(
    run_id: Run,
    *,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """One run with its arguments, result and cancel."""
    from coordinator.cli.runs import show_run

    return finish(show_run(Where(store, redis, namespace).settings(), run_id, as_json=as_json))


@runs.command("follow", epilog=EXIT_CODES, short_help="What a run emits, from the beginning to its end")
def runs_follow(
    run_id: Run,
    *,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="ID", help="Only what came after this event; $ = from now on"),
    ] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option("--mode", metavar="MODE", help="Only this mode; repeat it for several"),
    ] = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """What a run emits, from the beginning to its end. With --json one line for each event, gap and end.

    They come from the event log of the deployment: that of Redis, or the store's. "-- missing" stands where
    the log has lost some.
    """
    from coordinator.cli.follow import follow_run

    settings = Where(store, redis, namespace).settings()
    return finish(follow_run(settings, run_id, after=after, modes=modes, as_json=as_json))


@runs.command("cancel", epilog=EXIT_CODES, short_help="Cancel a run, or all that filters fit")
def runs_cancel(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run id, or how it begins; or give filters, for many"),
    ] = None,
    *,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="pending|running|all", help="All runs in flight, or only such"),
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", metavar="THREAD", help="Only on this thread")
    ] = None,
    assistant: Assistant = None,
    user: User = None,
    metadata: Metadata = None,
    older_than: OlderThan = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Filters: only count")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Filters: do not ask")] = False,
    action: Annotated[
        str,
        typer.Option(
            "--action", metavar="interrupt|rollback", help="Keep what it has done, or put its thread back"
        ),
    ] = "interrupt",
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the history")
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="NAME", help="Who, for the history. Default: cli:<your user name>"),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", min=0, help="RUN: return when its task has stopped"),
    ] = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Cancel a run, wherever it is. Done = the cancel is committed; with --wait = the thread is free.

    With filters instead of RUN: all runs in flight that every filter fits, after their number and a question.
    Each is cancelled and audited as if it had been named. If the command is interrupted, give it again: it
    goes on with those that are left. A run that the filters begin to fit meanwhile is not cancelled.

    Redis away: the cancel stands all the same, and the run's worker finds it at its next tick.
    """
    from coordinator.cli.cancel import How, cancel_run
    from coordinator.cli.cancel_many import Filters, cancel_many

    filters = Filters(status, thread, assistant, user, tuple(metadata or ()), older_than)
    if (run_id is not None) is any(filters):
        raise typer.BadParameter("name one run, or give filters: --status all is every run in flight")
    how = How(action, reason, actor)
    settings = Where(store, redis, namespace).settings()
    if run_id is not None:
        if dry_run or yes:
            raise typer.BadParameter("--dry-run and --yes belong to filters")
        return finish(cancel_run(settings, run_id, how, wait=wait, as_json=as_json))
    if wait is not None:
        raise typer.BadParameter(
            "--wait belongs to RUN: `coordinator runs list --in-flight` shows what is left"
        )
    return finish(cancel_many(settings, filters, how, dry_run=dry_run, yes=yes, as_json=as_json))


def explain(
    run_id: Run,
    *,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """A run's history: when, what, by whom, why, with epoch and fence; and where it stands now."""
    from coordinator.cli.explain import explain

    return finish(explain(Where(store, redis, namespace).settings(), run_id, as_json=as_json))
