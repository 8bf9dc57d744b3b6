"""The commands of `coordinator db` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Namespace, Redis, Store, Where

db = group("Create, migrate and check the store.")


@db.command("migrate", epilog=EXIT_CODES, short_help="Create the store, or bring its schema up to date")
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
    return finish(migrate(settings, grant_to=grant_to, wait=wait, as_json=as_json))


@db.command("check", epilog=EXIT_CODES, short_help="Is the store ours, current and sound; is Redis there")
def db_check(
    *, store: Store = None, redis: Redis = None, namespace: Namespace = None, as_json: AsJson = False
) -> int:
    """Is it ours, is its schema current, is it sound; how much is in it; and does Redis answer."""
    from coordinator.cli.database import check

    return finish(check(Where(store, redis, namespace).settings(), as_json=as_json))


@db.command("copy", epilog=EXIT_CODES, short_help="Move an SQLite file to PostgreSQL")
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

    return finish(copy_store(Where(source).settings(), source=source, target=target, as_json=as_json))
