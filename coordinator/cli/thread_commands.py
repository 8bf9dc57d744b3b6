"""The commands of `coordinator threads` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import (
    EXIT_CODES,
    AsJson,
    Limit,
    Metadata,
    Namespace,
    Redis,
    Store,
    User,
    Where,
)

threads = group("Conversations: each has one run at a time.")


@threads.command("list", epilog=EXIT_CODES, short_help="Threads, the last changed first")
def threads_list(
    *,
    user: User = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only idle, busy, interrupted or error ones"),
    ] = None,
    metadata: Metadata = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="What changed longest ago comes first")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Temporary threads as well")] = False,
    offset: Annotated[
        int, typer.Option("--offset", metavar="N", min=0, help="Skip so many: the next page")
    ] = 0,
    limit: Limit = 50,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, however wide the terminal is")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Threads, the last changed first: status, assistant, age, and what they failed with."""
    from coordinator.cli.threads import list_threads, thread_query

    settings = Where(store, redis, namespace).settings()
    query = thread_query(
        status, metadata or (), oldest_first=oldest_first, everything=everything, limit=limit, offset=offset
    )
    return finish(list_threads(settings, query, user=user, wide=wide, as_json=as_json))


@threads.command("show", epilog=EXIT_CODES, short_help="A thread: its holder, queue, values and last runs")
def threads_show(
    thread_id: Annotated[
        str, typer.Argument(metavar="THREAD", help="Thread id, or how it begins if no other does")
    ],
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many of its last runs")] = 10,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """A thread: status, who holds it, who waits, its values and its last runs."""
    from coordinator.cli.threads import show_thread

    return finish(
        show_thread(Where(store, redis, namespace).settings(), thread_id, limit=limit, as_json=as_json)
    )
