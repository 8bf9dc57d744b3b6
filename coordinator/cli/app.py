"""The commands and their options. Each imports what it does only when it is run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from typer.main import get_command

from coordinator.cli import failures, key_commands, servers, upkeep_commands
from coordinator.cli.awaiting import finish as _await
from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS, AsJson, Namespace, Redis, Store, Where

# Plain help: rich takes longer to import than --help may take.
app = typer.Typer(
    name="coordinator",
    help="Serve runs of agents; look at them, cancel them, and clean up after dead workers.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP_OPTIONS,
)


def _group(name: str, about: str) -> typer.Typer:
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, epilog=EXIT_CODES, context_settings=HELP_OPTIONS
    )
    app.add_typer(group, name=name, help=about)
    return group


runs = _group("runs", "List, show and cancel runs.")
workers = _group("workers", "The workers of the deployment.")
threads = _group("threads", "What runs are serialised on.")
app.add_typer(upkeep_commands.webhooks, name="webhooks")
app.add_typer(upkeep_commands.crons, name="crons")
app.add_typer(key_commands.keys, name="keys")
db = _group("db", "Create, migrate and check the store.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id")]


def run(args: Sequence[str]) -> int:
    """Run one command line; answer the exit code. Everything that goes wrong has been reported."""
    failures.log_to_stderr()
    try:
        code = get_command(app).main(args=list(args), prog_name="coordinator", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - what is no failure on purpose is raised again
        return failures.report(error, as_json="--json" in args)
    return code if isinstance(code, int) else failures.DONE


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"coordinator {version('run-coordinator')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    del version


# -- runs


@runs.command("list", epilog=EXIT_CODES)
def runs_list(
    *,
    thread: Annotated[str | None, typer.Option("--thread", metavar="ID", help="Only this thread")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only this status; repeat it for several"),
    ] = None,
    in_flight: Annotated[
        bool, typer.Option("--in-flight", help="Only what holds its thread or has not ended")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = 50,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Runs, newest first: phase, age, owner epoch, and the place in its line of each that waits."""
    from coordinator.cli.runs import list_runs

    settings = Where(store, redis, namespace).settings()
    wanted = tuple(status or ())
    return _await(
        list_runs(settings, thread=thread, statuses=wanted, in_flight=in_flight, limit=limit, as_json=as_json)
    )


@runs.command("show", epilog=EXIT_CODES)
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

    return _await(show_run(Where(store, redis, namespace).settings(), run_id, as_json=as_json))


@runs.command("follow", epilog=EXIT_CODES)
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

    Events travel through Redis: without it only the run's own worker has them, and the end is all there is.
    """
    from coordinator.cli.follow import follow_run

    settings = Where(store, redis, namespace).settings()
    return _await(follow_run(settings, run_id, after=after, modes=modes, as_json=as_json))


@runs.command("cancel", epilog=EXIT_CODES)
def runs_cancel(
    run_id: Run,
    *,
    action: Annotated[
        str,
        typer.Option(
            "--action", metavar="interrupt|rollback", help="Keep what it has done, or put its thread back"
        ),
    ] = "interrupt",
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the history")] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who, for the history. Default: cli:<your user name>")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", min=0, help="Return when its task has stopped"),
    ] = None,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Cancel a run, wherever it is. Done = the cancel is committed; with --wait = the thread is free.

    Redis away: the cancel stands all the same, and the run's worker finds it at its next tick.
    """
    from coordinator.cli.cancel import cancel_run

    settings = Where(store, redis, namespace).settings()
    return _await(
        cancel_run(settings, run_id, action=action, reason=reason, actor=actor, wait=wait, as_json=as_json)
    )


# -- workers, threads


@workers.command("list", epilog=EXIT_CODES)
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

    return _await(list_workers(Where(store, redis, namespace).settings(), everyone=everyone, as_json=as_json))


@workers.command("drain", epilog=EXIT_CODES)
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
    return _await(drain_workers(settings, epoch, grace=grace, as_json=as_json))


@threads.command("list", epilog=EXIT_CODES)
def threads_list(
    *,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this user's")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only idle, busy, interrupted or error ones"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata", metavar="KEY=VALUE", help="Only with this in their metadata; repeat it for several"
        ),
    ] = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="What changed longest ago comes first")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Temporary threads as well")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = 50,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Threads, the last changed first: status, user, and what they failed with."""
    from coordinator.cli.threads import list_threads, thread_query

    settings = Where(store, redis, namespace).settings()
    query = thread_query(
        status, metadata or (), oldest_first=oldest_first, everything=everything, limit=limit
    )
    return _await(list_threads(settings, query, user=user, as_json=as_json))


@threads.command("show", epilog=EXIT_CODES)
def threads_show(
    thread_id: Annotated[str, typer.Argument(metavar="THREAD", help="Thread id")],
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many of its last runs")] = 10,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """A thread: status, who holds it, who waits, its values and its last runs."""
    from coordinator.cli.threads import show_thread

    return _await(
        show_thread(Where(store, redis, namespace).settings(), thread_id, limit=limit, as_json=as_json)
    )


# -- upkeep


@app.command("reconcile", epilog=EXIT_CODES)
def reconcile_orphans(
    *,
    error: Annotated[
        str, typer.Option("--error", help="Error text of the runs that are ended")
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
        str | None, typer.Option("--actor", help="Who declares it dead, for the audit (you)")
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
    return _await(reconcile(settings, asked, as_json=as_json))


@app.command("prune", epilog=EXIT_CODES)
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
    return _await(prune_history(settings, older_than=older_than, dry_run=dry_run, yes=yes, as_json=as_json))


@app.command("explain", epilog=EXIT_CODES)
def explain_run(
    run_id: Run,
    *,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """A run's history: when, what, by whom, why, with epoch and fence; and where it stands now."""
    from coordinator.cli.explain import explain

    return _await(explain(Where(store, redis, namespace).settings(), run_id, as_json=as_json))


@db.command("migrate", epilog=EXIT_CODES)
def db_migrate(
    *,
    grant_to: Annotated[
        str | None,
        typer.Option(
            "--grant-to", metavar="ROLE", help="PostgreSQL: give this role what a worker needs, and no more"
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="PostgreSQL: for locks that others hold")
    ] = 300.0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Create the store, or bring its schema up to date. Harmless when there is nothing to do.

    Waits for others in attempts of two seconds, between which workers go on, and names who is in the way.
    """
    from coordinator.cli.database import migrate

    settings = Where(store, redis, namespace).settings()
    return _await(migrate(settings, grant_to=grant_to, wait=wait, as_json=as_json))


@db.command("check", epilog=EXIT_CODES)
def db_check(
    *, store: Store = None, redis: Redis = None, namespace: Namespace = None, as_json: AsJson = False
) -> int:
    """Is it ours, is its schema current, is it sound; how much is in it; and does Redis answer."""
    from coordinator.cli.database import check

    return _await(check(Where(store, redis, namespace).settings(), as_json=as_json))


@db.command("copy", epilog=EXIT_CODES)
def db_copy(
    *,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="sqlite:///path")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="postgresql://owner@host/database")],
    as_json: AsJson = False,
) -> int:
    """Move a deployment from an SQLite file to PostgreSQL: every row, compared when all are there.

    Stop all workers first. What was interrupted goes on where it ended. The file stays as it is; the schema
    (COORDINATOR_POSTGRES_SCHEMA) must be empty, and opens as a store when the copy is complete.
    """
    from coordinator.cli.copying import copy_store

    return _await(copy_store(Where().settings(), source=source, target=target, as_json=as_json))


# -- servers

app.command("serve", epilog=EXIT_CODES)(servers.serve)
app.command("dev", epilog=EXIT_CODES)(servers.dev)


# -- demo


class DemoStore(StrEnum):
    sqlite = "sqlite"
    postgres = "postgres"


@app.command("demo", epilog=EXIT_CODES)
def demo(
    *,
    store: Annotated[
        DemoStore, typer.Option("--store", help="A file, or a PostgreSQL that the demo starts")
    ] = DemoStore.sqlite,
    redis: Redis = None,
    as_json: AsJson = False,
) -> int:
    """Watch eight claims hold: three workers, cancels, strategies, a gateway, a dead Redis and a dead worker.

    Starts its own Redis-compatible server, store and workers, and leaves nothing behind. With --redis
    it uses yours, and skips what would need to kill it.
    """
    from coordinator.cli.demo.program import demonstrate

    return _await(demonstrate(redis, as_json=as_json, on_postgres=store is DemoStore.postgres))
