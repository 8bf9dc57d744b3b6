"""A stranger holds one row: who needs it waits for it, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from stores.errors import EpochDead
from stores.postgres import PostgresStore
from stores.rows import Ownership
from tests.support.builders import (
    ENDED,
    SUCCESS,
    admitted,
    holding,
    new_worker,
    row_of,
    running,
    waiting,
)
from tests.support.postgres import Database
from tests.support.waiting import wait_until

SOON = 10  # s; less than busy_timeout, after which whoever waits gives up


class Scene(NamedTuple):
    store: PostgresStore
    me: int
    database: Database

    @asynccontextmanager
    async def locked(self, table: str, column: str, *ids: Any) -> AsyncGenerator[None]:
        """Rows that a stranger holds for the time of the block."""
        async with self.database.connection() as cx, cx.transaction():
            await cx.execute(
                f"SELECT FROM {self.store.schema}.{table} WHERE {column} = ANY ($1) FOR UPDATE", list(ids)
            )
            yield

    @asynccontextmanager
    async def stuck(
        self, table: str, column: str, ids: Sequence[str], calls: Sequence[Coroutine[Any, Any, Any]]
    ) -> AsyncGenerator[list[asyncio.Task[Any]]]:
        """These wait for what is locked during the block. After it they have ended, in whatever way."""
        tasks = list[asyncio.Task[Any]]()
        try:
            async with self.locked(table, column, *ids):
                tasks += map(asyncio.create_task, calls)
                await self.waits()
                yield tasks
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def waits(self, count: int = 1) -> None:
        """Until so many sessions of the store wait for a lock."""
        async with self.database.connection() as cx:

            async def enough() -> bool:
                return count <= await cx.fetchval(_WAITING, self.store.schema)

            await wait_until(enough, description=f"{count} sessions wait for a lock")


_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"


@pytest.fixture
async def scene(shared_postgres: Database) -> AsyncGenerator[Scene]:
    async with shared_postgres.store() as store:
        yield Scene(store, await store.register(new_worker(assistants=("a",))), shared_postgres)


# -- a drain


async def enqueue(scene: Scene, own: Ownership) -> None:
    await waiting(scene.store, scene.me, own.thread_id)


async def replace(scene: Scene, own: Ownership) -> None:
    await admitted(scene.store, scene.me, own.thread_id, multitask_strategy="interrupt")


async def claim(scene: Scene, own: Ownership) -> None:
    await scene.store.claim(own.thread_id, epoch=scene.me)


async def save(scene: Scene, own: Ownership) -> None:
    await scene.store.save(own, {"v": 1})


async def restore(scene: Scene, own: Ownership) -> None:
    await scene.store.restore(own)


async def refence(scene: Scene, own: Ownership) -> None:
    await scene.store.refence(own)


async def readopt(scene: Scene, own: Ownership) -> None:
    await scene.store.readopt(own)


async def start(scene: Scene, own: Ownership) -> None:
    await scene.store.start(own, None)


async def finish(scene: Scene, own: Ownership) -> None:
    await scene.store.finish(own, SUCCESS)


async def fail(scene: Scene, own: Ownership) -> None:
    await scene.store.finish(own, ENDED)


async def settle(scene: Scene, own: Ownership) -> None:
    await scene.store.settle(own, ENDED)


async def delete_thread(scene: Scene, own: Ownership) -> None:
    await scene.store.delete_thread(own)


Waits = Callable[[Scene, Ownership], Coroutine[Any, Any, None]]
FOR_THREAD: tuple[Waits, ...] = (
    enqueue, replace, claim, save, restore, refence, readopt, finish, fail, settle, delete_thread,
)  # fmt: skip
FOR_RUN: tuple[Waits, ...] = (replace, refence, readopt, start, finish, fail, settle, delete_thread)


@pytest.mark.parametrize(
    ("table", "waits"),
    [("threads", waits) for waits in FOR_THREAD] + [("runs", waits) for waits in FOR_RUN],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
async def test_drain_and_other_writes_pass_a_write_that_waits_for_a_row(
    scene: Scene, table: str, waits: Waits
) -> None:
    store, me = scene.store, scene.me
    held = await holding(store, me, "held", kind="op" if waits is delete_thread else "run")
    own, other = await running(store, me, "own"), await holding(store, me, "other")
    what = "thread_id" if table == "threads" else "run_id"
    async with scene.stuck(table, what, [getattr(held, what)], [waits(scene, held)]) as (stuck,):
        async with asyncio.timeout(SOON):
            await store.drain(me)
            await store.finish(own, SUCCESS)
            await store.start(other, None)
        assert not stuck.done()


async def test_admission_that_waited_while_its_worker_was_drained_is_refused(scene: Scene) -> None:
    await holding(scene.store, scene.me, "held")
    enqueued = waiting(scene.store, scene.me, "held")
    async with scene.stuck("threads", "thread_id", ["held"], [enqueued]) as (admission,):
        async with asyncio.timeout(SOON):
            await scene.store.drain(scene.me)
    with pytest.raises(EpochDead):
        await admission
    assert await scene.store.waiting_line("held") == []


async def test_drain_passes_a_waiting_run_that_a_stranger_holds(scene: Scene) -> None:
    store, me = scene.store, scene.me
    await holding(store, me, "t")
    first, second = [await waiting(store, me, "t", portable=True, assistant_id="a") for _ in range(2)]
    async with scene.locked("runs", "run_id", first), asyncio.timeout(SOON):
        assert [handed.run_id for handed in await store.drain(me)] == [second]
    assert (await row_of(store, first)).home_epoch == me
    assert [handed.run_id for handed in await store.drain(me)] == [first]
