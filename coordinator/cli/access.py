"""Opening the store to look at it, and finding in it what a command was asked about."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.bootstrap import Observer, open_observer
from coordinator.cli.failures import UNREACHABLE, CommandFailed
from coordinator.cli.ids import whole_id
from coordinator.errors import InvalidArgument
from coordinator.settings import Settings
from stores.base import CoordinationStore, ReadStore
from stores.rows import RunRow


@asynccontextmanager
async def looking_at(settings: Settings) -> AsyncGenerator[Observer]:
    """The store, to read and to cancel: no worker is registered, nothing is created or migrated."""
    check_visible(settings)
    async with open_observer(settings) as seen:
        yield seen


async def redis_must_answer(url: str) -> None:
    """Raises CommandFailed (unreachable); InvalidArgument for a URL that is of no use."""
    from coordinator.redis.link import RedisLink
    from coordinator.urls import redact_url

    try:
        link = RedisLink(url, budget=2.0)
    except ValueError as error:
        raise InvalidArgument("redis", str(error)) from None
    try:
        if not await link.ping():
            problem = f"{redact_url(url)} does not answer"
            raise CommandFailed(
                "RedisUnreachable", problem, "Start it, or name another one.", code=UNREACHABLE
            )
    finally:
        await link.aclose()


def check_visible(settings: Settings) -> None:
    if settings.store.startswith("memory:"):
        raise InvalidArgument(
            "store", "memory:// lives inside one process, so there is nothing to see from here"
        )


async def run_or_fail(store: CoordinationStore, settings: Settings, run_id: str) -> RunRow:
    """By its id, or by how that begins. Raises InvalidArgument for what can be no id, CommandFailed for a run
    that is not there, and where several begin so."""
    row = await store.row(await whole_id(store, "run", run_id, argument="RUN"))
    if row is None:
        raise CommandFailed(
            "RunNotFound",
            f"run {run_id!r} is not in {settings.shown_store}",
            "`coordinator runs list` shows those that are; --store names another store.",
            run_id=run_id,
        )
    return row


async def positions(store: ReadStore, rows: list[RunRow]) -> dict[str, int]:
    """The place in its thread's line, from 1, of each run that waits."""
    threads = {row.thread_id for row in rows if row.waiting}
    return {
        run_id: place
        for thread_id in threads
        for place, run_id in enumerate(await store.waiting_line(thread_id), start=1)
    }
