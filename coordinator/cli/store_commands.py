"""The commands of `coordinator db` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import EXIT_CODES, AsJson, Deployment, Namespace, Redis, Store

db = group("Create, migrate and check the store.")


@db.command("migrate", epilog=EXIT_CODES, short_help="Create the store, or migrate its schema")
def db_migrate(
    *,
    grant_to: Annotated[
        str | None,
        typer.Option(
            "--grant-to",
            metavar="ROLE",
            help="PostgreSQL: grant this role the privileges of a worker, and no others",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="PostgreSQL: timeout for locks of other sessions"
        ),
    ] = 300.0,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Create the store, or migrate its schema to the current version. Idempotent.

    On PostgreSQL it waits for locks in attempts of two seconds, between which workers continue, and names the
    blocking sessions.
    """
    from coordinator.cli.database import migrate

    settings = Deployment(store, redis, namespace).settings()
    return finish(migrate(settings, grant_to=grant_to, wait=wait, as_json=as_json))


@db.command("check", epilog=EXIT_CODES, short_help="Check schema, integrity and size of the store, and Redis")
def db_check(
    *, store: Store = None, redis: Redis = None, namespace: Namespace = None, as_json: AsJson = False
) -> int:
    """Check the identity, schema version and integrity of the store, its size, and the connection to
    Redis."""
    from coordinator.cli.database import check

    return finish(check(Deployment(store, redis, namespace).settings(), as_json=as_json))


@db.command("copy", epilog=EXIT_CODES, short_help="Copy an SQLite file to PostgreSQL")
def db_copy(
    *,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="sqlite:///path")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="postgresql://owner@host/database")],
    as_json: AsJson = False,
) -> int:
    """Copy a deployment from an SQLite file to PostgreSQL, and compare all rows at the end.

    Stop all workers first. An interrupted copy is resumed by the same command. The file is not changed. The
    target schema (COORDINATOR_POSTGRES_SCHEMA) must be empty; it opens as a store only when the copy is
    complete.
    """
    from coordinator.cli.copying import copy_store

    return finish(copy_store(Deployment(source).settings(), source=source, target=target, as_json=as_json))
