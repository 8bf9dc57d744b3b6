"""All commands of the command line. Each imports its implementation only when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from coordinator.cli import (
    cleanup_commands,
    demo_command,
    failures,
    key_commands,
    projection_commands,
    run_commands,
    servers,
    store_commands,
    thread_commands,
    upkeep_commands,
    worker_commands,
)
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES

app = group("Serve, inspect and cancel runs of agents, and recover runs of dead workers.")
app.add_typer(run_commands.runs, name="runs")
app.add_typer(thread_commands.threads, name="threads")
app.add_typer(worker_commands.workers, name="workers")
app.add_typer(upkeep_commands.webhooks, name="webhooks")
app.add_typer(upkeep_commands.crons, name="crons")
app.add_typer(projection_commands.projections, name="projections")
app.add_typer(key_commands.keys, name="keys")
app.add_typer(store_commands.db, name="db")
for name, command, summary in (
    ("serve", servers.serve, "Serve the Runs API with one or several worker processes"),
    ("dev", servers.dev, "Serve for development: one worker, restarted on code changes"),
    ("explain", run_commands.explain, "Show the history of a run: transitions, actors, causes"),
    ("reconcile", cleanup_commands.reconcile_orphans, "End orphaned runs"),
    ("prune", cleanup_commands.prune_old, "Remove old runs, webhooks and dead workers"),
    ("demo", demo_command.demo, "Demonstrate eight claims: cancels, strategies, dead workers"),
):
    app.command(name, epilog=EXIT_CODES, short_help=summary)(command)


def run(args: Sequence[str]) -> int:
    """Run one command line. Returns the exit code; failures are reported on stderr."""
    failures.log_to_stderr()
    failures.as_json.set("--json" in args)
    try:
        code = get_command(app).main(args=list(args), prog_name="coordinator", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - report() re-raises bugs
        return failures.report(error, as_json="--json" in args)
    return code if isinstance(code, int) else failures.DONE


def _show_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"coordinator {version('run-coordinator')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit"),
    ] = False,
) -> None:
    del version
