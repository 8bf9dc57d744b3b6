"""The command `demo` and its options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.options import AsJson, Redis


class DemoStore(StrEnum):
    sqlite = "sqlite"
    postgres = "postgres"


def demo(
    *,
    store: Annotated[
        DemoStore,
        typer.Option(
            "--store", metavar="sqlite|postgres", help="An SQLite file, or a PostgreSQL started by the demo"
        ),
    ] = DemoStore.sqlite,
    redis: Redis = None,
    as_json: AsJson = False,
) -> int:
    """Demonstrate eight claims: three workers, cancels, strategies, a gateway, a dead Redis and a dead
    worker.

    Starts its own Redis-compatible server, store and workers, and removes them at the end. With --redis it
    uses that server, and skips the claims that require killing it.
    """
    from coordinator.cli.demo.program import demonstrate

    return finish(demonstrate(redis, as_json=as_json, on_postgres=store is DemoStore.postgres))
