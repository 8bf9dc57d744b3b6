"""Concurrent calls of several workers to the PostgreSQL store, each worker on connections of its own."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from stores.catalogue import NewThread, ThreadPatch
from stores.errors import ConflictError, EpochDead, ParentEnded, StaleFence, StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.pruning import Retention
from stores.rows import Outcome, Ownership
from stores.sql.postgres import threads
from stores.sql.postgres.calls import Call, Query, scalar
from stores.states import CancelAction, Cause, RunStatus
from stores.webhooks import Shares
from tests.support.builders import SUCCESS, admitted, cancel, fence_epoch, new_worker, running, sql_of
from tests.support.inside_stores import connect_as, pool_of
from tests.support.postgres import Database

Stores = list[PostgresStore]


@pytest.fixture
async def opened(shared_postgres: Database) -> AsyncGenerator[Callable[[int], Awaitable[Stores]]]:
    """So many stores on one schema."""
    async with AsyncExitStack() as stack:
        url, name = await stack.enter_async_context(shared_postgres.worker())

        async def open_(count: int, **options: Any) -> Stores:
            stores = [PostgresStore(url, Options(schema=name, **options)) for _ in range(count)]
            for store in stores:
                stack.push_async_callback(store.aclose)
                await store.open()
            return stores

        yield open_


async def test_of_concurrent_admissions_to_one_thread_one_wins(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    stores = await opened(5)
    epochs = [await store.register(new_worker()) for store in stores]
    for _ in range(20):
        answers = await asyncio.gather(
            *(
                admitted(store, epoch, "t")
                for store, epoch in zip(stores, epochs, strict=True)
                for _ in range(10)
            ),
            return_exceptions=True,
        )
        won = [answer for answer in answers if not isinstance(answer, BaseException)]
        lost = [answer for answer in answers if isinstance(answer, ConflictError)]
        assert (len(won), len(lost)) == (1, 49)
        assert {error.active_run_id for error in lost} == {won[0].run_id}
        row = await stores[0].row(won[0].run_id)
        assert row is not None
        assert row.owner_epoch is not None
        own = Ownership(won[0].run_id, "t", row.owner_epoch, won[0].fence)
        assert (await stores[0].finish(own, SUCCESS)).status is RunStatus.success


class Chaos:
    """Workers that do anything to a few threads, with children across them. What is refused is refused."""

    def __init__(self, stores: Stores, seed: int) -> None:
        self.stores, self.random = stores, random.Random(seed)
        self.epochs: list[tuple[PostgresStore, int]] = []
        self.runs: list[str] = []
        self.owns: list[tuple[PostgresStore, Ownership]] = []
        self.numbers = itertools.count()

    async def step(self) -> None:
        act = self.random.choice(
            (self.admit, self.admit, self.admit, self.start, self.finish, self.finish, self.cancel,
             self.claim, self.claim, self.sweep, self.settle, self.fence, self.save)
        )  # fmt: skip
        with suppress(ConflictError, EpochDead, ParentEnded, StaleFence):
            await act()

    def one(self, of: list[Any]) -> Any:
        return self.random.choice(of[-12:])

    async def worker(self) -> None:
        store = self.random.choice(self.stores)
        self.epochs.append((store, await store.register(new_worker())))

    async def admit(self) -> None:
        store, epoch = self.one(self.epochs)
        thread = f"t{self.random.randrange(4)}"
        run = await admitted(
            store,
            epoch,
            thread,
            multitask_strategy=self.random.choice(("reject", "enqueue", "interrupt", "rollback")),
            parent_run_id=self.one(self.runs) if self.runs and self.random.random() < 0.5 else None,
        )
        self.runs.append(run.run_id)
        if run.holds:
            self.owns.append((store, Ownership(run.run_id, thread, epoch, run.fence)))

    async def claim(self) -> None:
        store, epoch = self.one(self.epochs)
        thread = f"t{self.random.randrange(4)}"
        claimed = await store.claim(thread, epoch=epoch)
        if claimed is not None:
            self.owns.append((store, Ownership(claimed.run_id, thread, epoch, claimed.fence)))

    async def start(self) -> None:
        if self.owns:
            store, own = self.one(self.owns)
            await store.start(own, {})

    async def save(self) -> None:
        if self.owns:
            store, own = self.one(self.owns)
            await store.save(own, {"n": next(self.numbers)})

    async def finish(self) -> None:
        if self.owns:
            store, own = self.one(self.owns)
            status = self.random.choice((RunStatus.success, RunStatus.success, RunStatus.error))
            await store.finish(own, Outcome(status, values={"n": next(self.numbers)}))

    async def settle(self) -> None:
        if self.owns:
            store, own = self.one(self.owns)
            await store.settle(own, Outcome(RunStatus.error))

    async def cancel(self) -> None:
        if self.runs:
            await cancel(self.random.choice(self.stores), self.one(self.runs))

    async def fence(self) -> None:
        if self.random.random() < 0.1:
            (store, victim), (_, by) = self.one(self.epochs), self.one(self.epochs)
            await self.worker()
            rows = [row for row in await store.workers() if row.epoch == victim]
            if rows:
                await store.fence_worker(rows[0], by=by, proven=True)

    async def sweep(self) -> None:
        store, epoch = self.one(self.epochs)
        await store.sweep(by=epoch, error="gone")


@pytest.mark.timeout(120)
async def test_no_deadlock_occurs_and_no_thread_has_two_holders(
    opened: Callable[[int], Awaitable[Stores]], shared_postgres: Database
) -> None:
    stores = await opened(3)
    chaos = Chaos(stores, seed=11)
    for _ in range(4):
        await chaos.worker()

    async def act() -> None:
        for _ in range(60):
            await chaos.step()

    await asyncio.gather(*(act() for _ in range(16)))
    query = sql_of(stores[0])
    # Of a thread, the fence of each claim is greater than that of the one before it.
    taken: dict[str, list[int]] = {}
    for thread, fence in query(
        "SELECT thread_id, fence FROM transitions"
        " WHERE (what IN ('claimed', 'adopted') OR from_status IS NULL) AND holds_thread ORDER BY id"
    ):
        taken.setdefault(thread, []).append(fence)
    assert taken
    for fences in taken.values():
        assert fences == sorted(set(fences))
    # Between two holders of a thread, the first has released it.
    held: dict[str, str] = {}
    for thread, run_id, holds in query("SELECT thread_id, run_id, holds_thread FROM transitions ORDER BY id"):
        if holds:
            assert held.setdefault(thread, run_id) == run_id
        elif held.get(thread) == run_id:
            del held[thread]
    # A stopped run has no child in flight, except a child whose own admission has stopped it.
    left = query(
        "SELECT c.run_id FROM runs c JOIN runs p ON c.parent_run_id = p.run_id"
        " WHERE c.status IN ('pending','running') AND p.status IN ('error','interrupted','timeout')"
        " AND p.ended_at <> (SELECT min(at) FROM transitions t WHERE t.run_id = c.run_id)"
    )
    assert left == []
    decisions = query(
        "SELECT run_id FROM transitions WHERE from_status IN ('pending','running')"
        " AND to_status NOT IN ('pending','running') GROUP BY 1 HAVING count(*) > 1"
    )
    assert decisions == []
    if shared_postgres.server is not None:
        assert "deadlock detected" not in shared_postgres.server.log()


async def test_decided_while_it_is_claimed(opened: Callable[[int], Awaitable[Stores]]) -> None:
    """Whichever call is first, the cancelled run does not take the thread again."""
    one, other = await opened(2)
    me = await one.register(new_worker())
    for _ in range(20):
        first = await admitted(one, me, "t")
        waiting = await admitted(one, me, "t", multitask_strategy="enqueue")
        await one.finish(Ownership(first.run_id, "t", me, first.fence), SUCCESS)
        claimed, decided = await asyncio.gather(
            one.claim("t", epoch=me),
            other.decide(
                waiting.run_id, RunStatus.interrupted, action=CancelAction.interrupt, cause=Cause.user
            ),
        )
        assert decided is not None
        assert decided.settled == (claimed is None)
        if claimed is not None:
            await one.finish(Ownership(claimed.run_id, "t", me, claimed.fence), SUCCESS)


async def test_a_child_that_is_admitted_while_its_parent_ends(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    """It is refused, or it ends with the parent; it is never left over."""
    one, other = await opened(2)
    me = await one.register(new_worker())
    for number in range(20):
        parent = await admitted(one, me, f"p{number}")
        child, _ = await asyncio.gather(
            admitted(one, me, f"c{number}", parent_run_id=parent.run_id),
            cancel(other, parent.run_id),
            return_exceptions=True,
        )
        if not isinstance(child, BaseException):
            row = await one.row(child.run_id)
            assert row is not None
            assert row.status is RunStatus.interrupted


async def test_one_key_on_two_threads_at_once(opened: Callable[[int], Awaitable[Stores]]) -> None:
    one, other = await opened(2)
    me = await one.register(new_worker())
    for number in range(10):
        key = {"idempotency_key": f"k{number}", "request_hash": "h", "user_id": "u"}
        answers = await asyncio.gather(
            admitted(one, me, f"a{number}", **key),
            admitted(other, me, f"b{number}", **key),
            return_exceptions=True,
        )
        assert sorted(isinstance(answer, ConflictError) for answer in answers) == [False, True]


async def test_writes_of_a_worker_are_refused_from_its_fencing_on(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    """Its writes in progress are committed before it is declared dead; no write of it is committed after."""
    one, other = await opened(2)
    for number in range(10):
        me, peer = await one.register(new_worker()), await other.register(new_worker())
        runs = [await admitted(one, me, f"{number}-{at}") for at in range(5)]
        owns = [Ownership(run.run_id, f"{number}-{at}", me, run.fence) for at, run in enumerate(runs)]
        finished, _ = await asyncio.gather(
            asyncio.gather(*(one.finish(own, SUCCESS) for own in owns)), fence_epoch(other, me, by=peer)
        )
        fenced = sql_of(other)("SELECT fenced_at FROM workers WHERE epoch = ?", me)[0][0]
        for own, finish in zip(owns, finished, strict=True):
            row = await other.row(own.run_id)
            assert row is not None
            assert finish.lost == row.open
            assert row.settled_at is None or row.settled_at <= fenced


async def test_prune_does_not_wait_for_a_run_that_is_locked(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    (store,) = await opened(1)
    me = await store.register(new_worker())
    runs = list[str]()
    for _ in range(3):  # the last run of a thread is kept
        run = await admitted(store, me, "t")
        await store.finish(Ownership(run.run_id, "t", me, run.fence), SUCCESS)
        runs.append(run.run_id)
    old = Retention(runs=0, keys=0)
    cursor = (await store.prune(old)).cursor
    locking = await connect_as(store)
    try:
        async with locking.transaction(), asyncio.timeout(10):
            await locking.execute(f"SELECT FROM {store.schema}.runs WHERE run_id = $1 FOR UPDATE", runs[0])
            assert (await store.prune(old, cursor=cursor)).pruned.runs == 1
    finally:
        await locking.close()
    assert (await store.prune(old, cursor=cursor)).pruned.runs == 1
    assert await store.row(runs[2])


async def test_patches_of_one_thread_at_once_are_each_made_once(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    """Read, written and read again: three calls each."""
    (store,) = await opened(1)
    await store.create_thread(NewThread("t"))
    before = pool_of(store).calls
    patches = (store.patch_thread("t", ThreadPatch({f"k{n}": n}), user_id=None) for n in range(50))
    await asyncio.gather(*patches)
    assert pool_of(store).calls - before == 150
    thread = await store.thread("t")
    assert thread is not None
    assert thread.metadata == {f"k{n}": n for n in range(50)}


async def test_patches_of_several_processes_are_all_merged(
    opened: Callable[[int], Awaitable[Stores]],
) -> None:
    stores = await opened(3)
    await stores[0].create_thread(NewThread("t"))
    await asyncio.gather(
        *(
            store.patch_thread("t", ThreadPatch({f"{at} {n}": n}), user_id=None)
            for at, store in enumerate(stores)
            for n in range(10)
        )
    )
    thread = await stores[0].thread("t")
    assert thread is not None
    assert len(thread.metadata) == 30


async def test_patch_gives_up_where_others_are_always_faster(
    opened: Callable[..., Awaitable[Stores]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (store,) = await opened(1, busy_timeout=0.5)
    await store.create_thread(NewThread("t"))

    def stale(*_: object) -> Call[Any]:
        return Call(Query("SELECT '{\"old\": 1}'"), (), scalar)

    monkeypatch.setattr(threads, "metadata", stale)
    with pytest.raises(StoreUnavailable, match="all the time"):
        await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=None)


@pytest.mark.parametrize("shares", [None, Shares(2, {})], ids=["oldest first", "in turn"])
async def test_claim_of_webhooks_passes_over_those_that_another_worker_is_claiming(
    opened: Callable[[int], Awaitable[Stores]], shares: Shares | None
) -> None:
    (store,) = await opened(1)
    me = await store.register(new_worker())
    for user_id in ("u", None):
        own = await running(store, me, f"of {user_id}", webhook="https://example.com/hook", user_id=user_id)
        await store.finish(own, SUCCESS)

    async def claim() -> set[str | None]:
        claimed = await store.claim_webhooks(epoch=me, lease=40, limit=10, shares=shares)
        return {webhook.user_id for webhook in claimed}

    claiming = await connect_as(store)
    try:
        async with claiming.transaction(), asyncio.timeout(10):
            await claiming.execute(f"SELECT FROM {store.schema}.webhooks FOR UPDATE")
            assert await claim() == set()
    finally:
        await claiming.close()
    assert await claim() == {"u", None}
