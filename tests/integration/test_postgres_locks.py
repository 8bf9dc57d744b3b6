"""A stranger holds one row: a call that needs it waits for it, and no other call does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from coordinator import open_coordinator
from coordinator.testing.conformance.stores.dispatch import dispatched
from stores.errors import EpochDead
from stores.postgres import PostgresStore
from stores.rows import Ownership
from stores.states import RunStatus, WorkerState
from tests.support import agents
from tests.support.builders import (
    ENDED,
    SUCCESS,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
    waiting,
    worker_row,
)
from tests.support.inside import under_way_in
from tests.support.inside_stores import urgent_pool_of
from tests.support.postgres import Database
from tests.support.waiting import wait_until

SOON = 10  # s; less than busy_timeout, after which a waiting call fails


class Scene(NamedTuple):
    store: PostgresStore
    me: int
    database: Database

    @property
    def url(self) -> str:
        return self.database.as_role(self.store.schema)

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


async def test_start_that_waited_for_its_row_succeeds_when_the_row_is_released(scene: Scene) -> None:
    """A batch of starts leaves out a locked row; the start of that run is then a transaction of its own."""
    held = await holding(scene.store, scene.me, "held", timeout_ms=60_000)
    async with scene.stuck(
        "runs", "run_id", [held.run_id], [scene.store.start(held, {"kind": "values"})]
    ) as (stuck,):
        assert not stuck.done()
    started = await stuck
    assert started is not None
    row = await row_of(scene.store, held.run_id)
    assert row.status is RunStatus.running
    assert row.started_at is not None
    assert row.deadline_at == row.started_at + 60_000_000


async def test_finish_that_waited_for_its_row_writes_what_the_run_returned(scene: Scene) -> None:
    """It writes what the batch would have written: the run, its thread and the home of the next run."""
    store, me = scene.store, scene.me
    held = await running(store, me, "held", user_id="u")
    child = await running(store, me, "child", user_id="u", parent_run_id=held.run_id)
    await waiting(store, me, "held", user_id="u")
    outcome = SUCCESS._replace(result={"r": 1}, values={"v": 2}, delivered_at=3, stopped_at=4)
    async with scene.stuck("runs", "run_id", [held.run_id], [store.finish(held, outcome)]) as (stuck,):
        assert not stuck.done()
    finish = await stuck
    assert (finish.status, finish.lost, finish.next_home) == (RunStatus.success, False, me)
    row = await row_of(store, held.run_id)
    assert (row.status, row.result, row.error) == (RunStatus.success, {"r": 1}, None)
    assert (row.cancel_delivered_at, row.stopped_at, row.holds_thread) == (3, 4, False)
    assert row.ended_at is not None
    assert row.ended_at == row.settled_at
    thread = await store.thread("held", user_id="u")
    assert thread is not None
    assert thread.values == {"v": 2}
    assert (await row_of(store, child.run_id)).status is RunStatus.running, "its success ends no child"


async def test_admission_that_waited_while_its_worker_was_drained_is_refused(scene: Scene) -> None:
    await holding(scene.store, scene.me, "held")
    enqueued = waiting(scene.store, scene.me, "held")
    async with scene.stuck("threads", "thread_id", ["held"], [enqueued]) as (admission,):
        async with asyncio.timeout(SOON):
            await scene.store.drain(scene.me)
    with pytest.raises(EpochDead):
        await admission
    assert await scene.store.waiting_line("held") == []


async def test_retire_waits_for_a_transaction_that_relies_on_the_live_worker(scene: Scene) -> None:
    """An admission that has found its worker live commits before the worker is dead, or its run would be
    admitted by a dead worker."""
    store, me = scene.store, scene.me
    async with scene.database.connection() as cx:
        async with cx.transaction():
            assert await cx.fetchval(f"SELECT {store.schema}.lock_worker($1)", me) == "live"
            retiring = asyncio.create_task(store.retire(me))
            await scene.waits()
            assert (await worker_row(store, me)).state is WorkerState.live
        await retiring
    assert (await worker_row(store, me)).state is WorkerState.dead


async def test_replacing_admissions_with_children_of_each_other_do_not_deadlock(scene: Scene) -> None:
    """Each of two runs of a thread has a child on the other thread, where these stand in the other order. All
    are locked by id before the first is decided; decided one by one, either admission would hold a run that
    the other needs."""
    store, me = scene.store, scene.me
    await running(store, me, "t", run_id="1")
    await store.insert(new_run("t", run_id="2"), epoch=me)
    await running(store, me, "u", run_id="3", parent_run_id="2")
    await store.insert(new_run("u", run_id="4", parent_run_id="1"), epoch=me)
    async with scene.locked("runs", "run_id", "2"):
        first = asyncio.create_task(admitted(store, me, "t", multitask_strategy="interrupt"))
        await scene.waits(1)
        second = asyncio.create_task(admitted(store, me, "u", multitask_strategy="interrupt"))
        both_wait = asyncio.create_task(scene.waits(2))
        await asyncio.wait((second, both_wait), return_when=asyncio.FIRST_COMPLETED)
        both_wait.cancel()
    async with asyncio.timeout(SOON):
        await asyncio.gather(first, second)
    for run_id in "1234":
        assert (await row_of(store, run_id)).status is RunStatus.interrupted
    if (server := scene.database.server) is not None:
        assert "deadlock detected" not in server.log()


async def test_drain_passes_a_waiting_run_that_a_stranger_holds(scene: Scene) -> None:
    store, me = scene.store, scene.me
    await holding(store, me, "t")
    first, second = [await waiting(store, me, "t", portable=True, assistant_id="a") for _ in range(2)]
    async with scene.locked("runs", "run_id", first), asyncio.timeout(SOON):
        assert [handed.run_id for handed in await store.drain(me)] == [second]
    assert (await row_of(store, first)).home_epoch == me
    assert [handed.run_id for handed in await store.drain(me)] == [first]


async def test_store_is_closed_after_a_call_that_its_batch_has_left_out(scene: Scene) -> None:
    """The batch waits for a table when the store begins to close, and then meets a locked row."""
    own = await running(scene.store, scene.me, "t")
    async with scene.locked("threads", "thread_id", "t"), scene.database.connection() as stranger:
        async with stranger.transaction():
            await stranger.execute(f"LOCK TABLE {scene.store.schema}.runs IN ACCESS EXCLUSIVE MODE")
            finishing = asyncio.create_task(scene.store.finish(own, SUCCESS))
            await scene.waits()
            closing = asyncio.create_task(scene.store.aclose())
            done, _ = await asyncio.wait((closing, finishing), timeout=0.2)
            assert not done

        async def waits_alone() -> bool:
            return finishing.done() or await stranger.fetchval(_WAITING, scene.store.schema) > 0

        await wait_until(waits_alone, description="the call waits for the row")
        assert not closing.done()
    async with asyncio.timeout(SOON):
        assert (await finishing).status is RunStatus.success
        await closing


async def test_end_that_waits_longer_than_allowed_keeps_no_other_run_from_ending(scene: Scene) -> None:
    """It is pending from then on, and is written when its row is released."""
    async with open_coordinator(scene.url, postgres_schema=scene.store.schema, busy_timeout=0.5) as manager:
        held, held_agent = await agents.running(manager, "held")
        other, other_agent = await agents.running(manager, "other")
        async with scene.locked("runs", "run_id", held.run_id):
            held_agent.may_end.set()
            await wait_until(lambda: manager.worker.pending_writes == 1, description="its end is pending")
            other_agent.may_end.set()
            await manager.wait(other.run_id, timeout=SOON)
            assert (await row_of(scene.store, other.run_id)).status is RunStatus.success
            assert (await row_of(scene.store, held.run_id)).status is RunStatus.running
        await manager.wait(held.run_id, timeout=SOON)
        assert (await row_of(scene.store, held.run_id)).status is RunStatus.success


async def test_reads_and_other_ends_pass_more_ends_than_connections(scene: Scene) -> None:
    """An open transaction of an operator holds many runs: lists, runs and `explain` stay readable."""
    store, me = scene.store, scene.me
    held = [await running(store, me, f"held {number}") for number in range(24)]
    other = await running(store, me, "other")
    ends = [store.finish(own, SUCCESS) for own in held]
    async with scene.stuck("runs", "run_id", [own.run_id for own in held], ends) as stuck:
        await scene.waits(8)
        async with asyncio.timeout(SOON):
            assert (await row_of(store, held[0].run_id)).status is RunStatus.running
            assert len(await store.list_inflight()) == 25
            await store.finish(other, SUCCESS)
            assert (await row_of(store, other.run_id)).status is RunStatus.success
        assert not any(task.done() for task in stuck)
    assert all(task.result().status is RunStatus.success for task in stuck)


async def test_admissions_of_a_batch_pass_one_whose_thread_was_changed(scene: Scene) -> None:
    """A thread that is changed, and not only locked, keeps an insert of it waiting."""
    store, me = scene.store, scene.me
    await store.finish(await running(store, me, "held"), SUCCESS)
    async with scene.database.connection() as stranger:
        async with stranger.transaction():
            await stranger.execute(f"UPDATE {store.schema}.threads SET metadata = '{{}}'")
            calls = [admitted(store, me, thread) for thread in ("a", "held", "b")]
            first, stuck, last = map(asyncio.create_task, calls)
            async with asyncio.timeout(SOON / 4):  # a batch gives up after BATCH_WITHIN
                await asyncio.gather(first, last)
            assert not stuck.done()
        await stuck


# -- a sweep


async def dead_with_runs(scene: Scene, *threads: str) -> tuple[int, list[Ownership]]:
    """A worker that was declared dead, and its runs."""
    epoch = await scene.store.register(new_worker())
    owned = [await running(scene.store, epoch, thread) for thread in threads]
    await fence_epoch(scene.store, epoch, by=scene.me)
    return epoch, owned


@pytest.mark.parametrize("table", ["threads", "runs"])
async def test_sweep_ends_and_returns_all_runs_that_are_not_locked(scene: Scene, table: str) -> None:
    store, me = scene.store, scene.me
    parent = await running(store, me, "parent")
    epoch = await store.register(new_worker())
    first, second = [await running(store, epoch, thread) for thread in ("first", "second")]
    child = await running(store, epoch, "child", parent_run_id=parent.run_id)
    stray = await store.insert(new_run("second"), epoch=epoch)
    await cancel(store, stray.run_id)
    await fence_epoch(store, epoch, by=me)
    what, which = ("thread_id", "first") if table == "threads" else ("run_id", first.run_id)
    async with scene.locked(table, what, which), asyncio.timeout(SOON):
        ended = await store.sweep(by=me, error="gone")
    assert {orphan.run_id for orphan in ended} == {second.run_id, child.run_id}
    assert (await row_of(store, stray.run_id)).settled_at is not None
    assert [orphan.run_id for orphan in await store.sweep(by=me, error="gone")] == [first.run_id]


async def test_sweep_returns_what_it_adopted_before_the_store_was_unavailable(scene: Scene) -> None:
    """The database refuses one of three adoptions; the next sweep makes up for those that were left."""
    store, me = scene.store, scene.me
    dead = await store.register(new_worker(assistants=("agent",)))
    heir = await store.register(new_worker(assistants=("agent",)))
    for thread in ("1", "2", "3"):
        await dispatched(store, me, thread)
        assert await store.claim(thread, epoch=dead) is not None
    await fence_epoch(store, dead, by=me)
    async with _one_adoption_by(scene, heir):
        first = await store.sweep(by=heir, error="dead")
    assert len(first) == 1
    left = {orphan.thread_id for orphan in await store.sweep(by=heir, error="dead")}
    assert left >= {"1", "2", "3"} - {first[0].thread_id}


@asynccontextmanager
async def _one_adoption_by(scene: Scene, epoch: int) -> AsyncGenerator[None]:
    """The server has no memory for more than one, for the time of the block."""
    schema = scene.store.schema
    await scene.database.execute(
        f"CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF EXISTS (SELECT FROM {schema}.runs WHERE owner_epoch = {epoch}) THEN"
        " RAISE 'out of memory' USING ERRCODE = '53200'; END IF; RETURN NEW; END $$",
        f"CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.runs FOR EACH ROW"
        f" WHEN (NEW.owner_epoch = {epoch}) EXECUTE FUNCTION {schema}.refuse()",
    )
    try:
        yield
    finally:
        await scene.database.execute(f"DROP FUNCTION {schema}.refuse() CASCADE")


async def test_new_worker_admits_although_a_dead_workers_thread_is_locked(scene: Scene) -> None:
    await dead_with_runs(scene, "held")
    url, schema = scene.url, scene.store.schema
    async with (
        open_coordinator(url, postgres_schema=schema) as manager,
        scene.locked("threads", "thread_id", "held"),
        asyncio.timeout(SOON),
    ):
        await manager.create_or_reject("free", "agent", kwargs={})


async def test_peer_whose_row_is_locked_is_not_declared_dead_and_delays_no_other(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    url, schema = scene.url, scene.store.schema
    first, second = [await scene.store.register(new_worker(ttl_ms=1)) for _ in range(2)]
    async with (
        open_coordinator(url, postgres_schema=schema, sweep=0.2) as manager,
        scene.locked("workers", "epoch", first),
        asyncio.timeout(SOON),
    ):
        await manager.create_or_reject("t", "agent", kwargs={})
        await wait_until(
            lambda: any(f"(epoch {second}, " in line for line in _declared_dead(caplog)),
            description="the other worker is declared dead",
        )
        assert (await worker_row(scene.store, second)).state is WorkerState.dead
        assert (await worker_row(scene.store, first)).state is WorkerState.live
        assert not any(f"(epoch {first}, " in line for line in _declared_dead(caplog))


def _declared_dead(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "is dead and fenced" in line]


# -- cancels


async def test_cancels_of_locked_runs_delay_no_other_call(scene: Scene) -> None:
    """More of them than there are connections, for cancels and for other calls that may wait."""
    store, me = scene.store, scene.me
    locked = [await running(store, me, f"locked {number}") for number in range(24)]
    runs = [await running(store, me, f"free {number}") for number in range(3)]
    child = await admitted(store, me, "child", parent_run_id=runs[2].run_id)
    ids = [own.run_id for own in locked]
    async with scene.stuck("runs", "run_id", ids, [cancel(store, run_id) for run_id in ids]) as stuck:
        await wait_until(lambda: not under_way_in(urgent_pool_of(store)), description="each has met its lock")
        async with asyncio.timeout(SOON):
            assert (await cancel(store, runs[0].run_id)).won
            assert runs[0].run_id in (await store.tick(me)).cancelled
            standing = await store.standing(runs[1].run_id)
            assert standing is not None
            await store.finish(runs[1], SUCCESS)
            family = await cancel(store, runs[2].run_id)
            assert [decision.run_id for decision in family.children] == [child.run_id]
            await running(store, me, "new")
            await store.drain(me)
        assert not any(task.done() for task in stuck)
    assert all(task.result().won for task in stuck)


async def test_cancels_that_come_at_once_are_one_transaction(scene: Scene) -> None:
    owned = [await running(scene.store, scene.me, f"t{number}") for number in range(20)]
    before = urgent_pool_of(scene.store).calls
    decisions = await asyncio.gather(*(cancel(scene.store, own.run_id) for own in owned for _ in range(2)))
    assert sum(decision.won for decision in decisions) == 20
    assert urgent_pool_of(scene.store).calls - before <= 4
