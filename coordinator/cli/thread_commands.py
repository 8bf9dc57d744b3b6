"""The commands of `coordinator threads` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.awaiting import finish
from coordinator.cli.commands import group
from coordinator.cli.options import (
    EXIT_CODES,
    AsJson,
    Deployment,
    Limit,
    Metadata,
    Namespace,
    Redis,
    Store,
    User,
)

threads = group("List and show threads (conversations).")


@threads.command("list", epilog=EXIT_CODES, short_help="List threads, last changed first")
def threads_list(
    *,
    user: User = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only idle, busy, interrupted or error"),
    ] = None,
    metadata: Metadata = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="Least recently changed first")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Include temporary threads")] = False,
    offset: Annotated[
        int, typer.Option("--offset", metavar="N", min=0, help="Number of threads to skip: the next page")
    ] = 0,
    limit: Limit = 50,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns on a narrow terminal")] = False,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """List threads, last changed first: status, assistant, age, and error."""
    from coordinator.cli.threads import list_threads, thread_query

    settings = Deployment(store, redis, namespace).settings()
    query = thread_query(
        status, metadata or (), oldest_first=oldest_first, everything=everything, limit=limit, offset=offset
    )
    return finish(list_threads(settings, query, user=user, wide=wide, as_json=as_json))


@threads.command("show", epilog=EXIT_CODES, short_help="Show holder, queue, values and last runs of a thread")
def threads_show(
    thread_id: Annotated[str, typer.Argument(metavar="THREAD", help="Thread id, or a unique prefix")],
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Number of last runs")] = 10,
    store: Store = None,
    redis: Redis = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> int:
    """Show a thread: status, holder, queue, values and last runs."""
    from coordinator.cli.threads import show_thread

    return finish(
        show_thread(Deployment(store, redis, namespace).settings(), thread_id, limit=limit, as_json=as_json)
    )
