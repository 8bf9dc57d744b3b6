"""The command line: its commands, put together. Each imports what it does only when it is run."""

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
    run_commands,
    servers,
    store_commands,
    thread_commands,
    upkeep_commands,
    worker_commands,
)
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES

app = group("Serve runs of agents; look at them, cancel them, and clean up after dead workers.")
app.add_typer(run_commands.runs, name="runs")
app.add_typer(thread_commands.threads, name="threads")
app.add_typer(worker_commands.workers, name="workers")
app.add_typer(upkeep_commands.webhooks, name="webhooks")
app.add_typer(upkeep_commands.crons, name="crons")
app.add_typer(key_commands.keys, name="keys")
app.add_typer(store_commands.db, name="db")
for name, command, summary in (
    ("serve", servers.serve, "Serve the Runs API with one worker process or many"),
    ("dev", servers.dev, "Serve it while you write assistants: restarts on changes"),
    ("explain", run_commands.explain, "A run's history: what happened when, by whom and why"),
    ("reconcile", cleanup_commands.reconcile_orphans, "End orphaned runs: those of dead workers"),
    ("prune", cleanup_commands.prune_old, "Remove old runs, webhooks and dead workers"),
    ("demo", demo_command.demo, "Watch eight claims hold: cancels, strategies, dead workers"),
):
    app.command(name, epilog=EXIT_CODES, short_help=summary)(command)


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
