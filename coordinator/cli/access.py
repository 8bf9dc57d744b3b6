"""Read access of commands to the store, and lookup of runs by id."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coordinator.bootstrap import Observer, open_observer
from coordinator.cli.failures import UNREACHABLE, CommandFailed
from coordinator.cli.ids import whole_id
from coordinator.errors import InvalidArgument
from coordinator.settings import Settings
from stores.base import CoordinationStore
from stores.rows import RunRow


@asynccontextmanager
async def observing(settings: Settings) -> AsyncGenerator[Observer]:
    """Open the store to read and to cancel. Registers no worker, creates and migrates nothing."""
    check_visible(settings)
    async with open_observer(settings) as observer:
        yield observer


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
            "store", "memory:// exists only within its process: other processes cannot read it"
        )


async def run_or_fail(store: CoordinationStore, settings: Settings, run_id: str) -> RunRow:
    """Return the run with this id or unique id prefix. Raises InvalidArgument for an invalid id,
    CommandFailed if the run does not exist or the prefix is ambiguous."""
    row = await store.row(await whole_id(store, "run", run_id, argument="RUN"))
    if row is None:
        raise CommandFailed(
            "RunNotFound",
            f"run {run_id!r} does not exist in {settings.shown_store}",
            "`coordinator runs list` shows the existing runs; --store selects another store.",
            run_id=run_id,
        )
    return row
