"""The PostgreSQL store where the server, the network or a stranger is in the way.

The promise in all cases: an acknowledged write is made once, the caller gets an error within a bound,
the heartbeat and cancels continue as long as there is a server, and the store works again by itself.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import chain, pairwise
from typing import Any

import pytest

from coordinator.servers.postgres import PostgresServer
from stores.errors import StaleFence, StoreError, StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.postgres.connections import Connections
from stores.sql.postgres import schema
from stores.states import RunStatus
from tests.support.builders import (
    SUCCESS,
    admitted,
    cancel,
    new_worker,
    row_of,
    running,
)
from tests.support.inside_stores import pool_of, sessions_of
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


@asynccontextmanager
async def on(
    server: PostgresServer | str, *, busy_timeout: float = 30.0, away_timeout: float = 5.0
) -> AsyncGenerator[PostgresStore]:
    url = server if isinstance(server, str) else server.url()
    store = PostgresStore(url, Options(busy_timeout=busy_timeout, away_timeout=away_timeout))
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture
def own_postgres() -> Generator[PostgresServer]:
    """A server that the test may kill."""
    with PostgresServer(durable=False) as server:
        yield server


class Beats:
    """A worker's heart, beating in a thread of its own as the pacemaker's does."""

    def __init__(self, store: PostgresStore, epoch: int) -> None:
        self._store, self._epoch = store, epoch
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self.times = [time.monotonic()]
        self.failures: list[StoreError] = []
        self.fenced = False

    def _beat(self) -> None:
        heart = self._store.heart()
        while not self._stop.wait(0.05):
            try:
                self.fenced |= not heart.beat(self._epoch)
                self.times.append(time.monotonic())
            except StoreError as error:
                self.failures.append(error)
        heart.close()

    @property
    def longest_pause(self) -> float:
        times = [*self.times, time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def __enter__(self) -> Beats:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# ---- sessions that are ended ---------------------------------------------------------------------------


async def test_what_may_have_been_written_is_not_refused(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a save is lost after its commit, and when it is made again the run has been decided over:
    a refusal would mean that nothing was written."""
    async with shared_postgres.store() as store:
        own = await running(store, await store.register(new_worker()))
        once, lost = pool_of(store).rows_once, asyncio.Event()

        async def unheard(*args: Any, **kwargs: Any) -> Any:
            rows = await once(*args, **kwargs)
            if not lost.is_set():
                lost.set()
                await cancel(store, own.run_id)
                raise ConnectionResetError
            return rows

        monkeypatch.setattr(pool_of(store), "rows_once", unheard)
        with pytest.raises(StoreUnavailable, match="not known"):
            await store.save(own, {"a": 1})
        with pytest.raises(StaleFence):
            await store.save(own, {"a": 2})
        thread = await store.thread(own.thread_id)
        assert thread is not None
        assert thread.values == {"a": 1}


async def lives(store: PostgresStore, epoch: int, thread: str, count: int) -> list[str]:
    """Runs from admission to their end, one after another."""
    ids: list[str] = []
    for _ in range(count):
        own = await running(store, epoch, thread)
        finish = await store.finish(own, SUCCESS)
        assert (finish.status, finish.lost) == (RunStatus.success, False)
        ids.append(own.run_id)
    return ids


async def test_only_a_write_whose_answer_was_lost_may_have_been_written(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on(own_postgres, away_timeout=0.3) as store:
        epoch = await store.register(new_worker())
        once, unheard = Connections.rows_once, True

        async def lost(self: Connections, *args: Any, **kwargs: Any) -> Any:
            nonlocal unheard
            if unheard:
                unheard = False
                raise ConnectionResetError
            return await once(self, *args, **kwargs)

        own_postgres.stop("immediate")
        monkeypatch.setattr(Connections, "rows_once", lost)
        with pytest.raises(StoreUnavailable, match="Nothing was written"):
            await store.workers()
        assert not unheard
        with pytest.raises(StoreUnavailable, match="Nothing was written"):
            await store.retire(epoch)
        unheard = True
        with pytest.raises(StoreUnavailable, match="not known whether"):
            await store.retire(epoch)
        with pytest.raises(StoreUnavailable, match="Nothing was written"):
            await store.inspect()


async def test_a_storm_that_ends_every_session(shared_postgres: Database) -> None:
    async with shared_postgres.store() as store, shared_postgres.connection() as cx:
        epoch = await store.register(new_worker())
        done, over, ended = list[str](), asyncio.Event(), 0

        async def work(thread: str) -> None:
            while not over.is_set():
                done.extend(await lives(store, epoch, thread, 1))

        working = [asyncio.create_task(work(f"t{at}")) for at in range(8)]
        with Beats(store, epoch) as beats:
            for _ in range(10):
                seen = len(done)
                await wait_until(lambda seen=seen: len(done) > seen + 8, description="work continues")
                ended += await cx.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1",
                    store.schema,  # its role's name, too
                )
            over.set()
            await asyncio.gather(*working)
        assert ended > 20
        assert not beats.fenced
        for run_id in done:
            steps = [step.what for step in await store.transitions(run_id)]
            assert steps == ["admitted", "started", "finished"]


async def has_runs(store: PostgresStore, count: int) -> bool:
    return len(await store.runs()) >= count


async def test_a_crash_of_the_server_in_the_midst_of_work(own_postgres: PostgresServer) -> None:
    async with on(own_postgres, away_timeout=20) as store:
        epoch = await store.register(new_worker())
        working = [asyncio.create_task(lives(store, epoch, f"t{at}", 40)) for at in range(4)]
        await wait_until(lambda: has_runs(store, 20), description="they are at work", timeout=20)
        await asyncio.to_thread(own_postgres.stop, "immediate")
        # From this thread: the server ends together with the one that starts it.
        own_postgres.start()
        done = list(chain.from_iterable(await asyncio.gather(*working)))
        assert len(done) == 160
        for run_id in done:
            assert (await row_of(store, run_id)).status is RunStatus.success


async def test_a_server_that_is_away_is_reported_within_the_bound(own_postgres: PostgresServer) -> None:
    async with on(own_postgres, away_timeout=0.5) as store:
        epoch = await store.register(new_worker())
        own_postgres.stop("immediate")
        for call in (
            lambda: admitted(store, epoch, "t"),
            lambda: cancel(store, "r"),
            lambda: store.tick(epoch),
            lambda: store.row("r"),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"reached|lost"):
                await call()
            assert time.monotonic() - began < 2
        own_postgres.start()
        assert (await admitted(store, epoch, "t")).holds


async def test_a_server_that_is_paused_delays_no_caller_for_ever(own_postgres: PostgresServer) -> None:
    """Connections stand and nothing answers: the client's own clock ends the wait."""
    async with on(own_postgres, busy_timeout=1) as store:
        epoch = await store.register(new_worker())
        await admitted(store, epoch, "t")
        own_postgres.pause()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await admitted(store, epoch, "u")
            assert time.monotonic() - began < 8
        finally:
            own_postgres.resume()
        assert (await admitted(store, epoch, "v")).holds


@pytest.mark.parametrize("made_alone", [True, False])
async def test_refused_call_of_a_cancelled_caller_is_not_reported_as_unhandled(
    shared_postgres: Database, made_alone: bool
) -> None:
    """The call of the cancelled caller continues, and is refused."""
    complaints = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with shared_postgres.store() as store:
        epoch = await store.register(new_worker())
        own = await running(store, epoch)
        await store.finish(own, SUCCESS)
        left = store.save(own, {"n": 1}) if made_alone else admitted(store, epoch + 1000)
        caller = asyncio.create_task(left)
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


# ---- strangers, and too few connections ----------------------------------------------------------------


@asynccontextmanager
async def locked(database: Database, store: PostgresStore, lock: str) -> AsyncGenerator[None]:
    """A stranger's transaction that holds it."""
    async with database.connection() as cx, cx.transaction():
        await cx.execute(schema.named(lock, store.schema))
        yield


THREAD_ROW = "SELECT FROM rc.threads WHERE thread_id = 't' FOR UPDATE"
TABLE = "LOCK TABLE rc.runs IN ACCESS EXCLUSIVE MODE"


@pytest.mark.parametrize("lock", [THREAD_ROW, TABLE], ids=["row", "table"])
async def test_what_a_stranger_locks_is_waited_for_within_a_bound(
    shared_postgres: Database, lock: str
) -> None:
    async with shared_postgres.store(busy_timeout=1.0) as store:
        epoch = await store.register(new_worker())
        own = await running(store, epoch)
        with Beats(store, epoch) as beats:
            async with locked(shared_postgres, store, lock):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable, match=r"locked|too long|busy"):
                    await store.finish(own, SUCCESS)
                assert 0.5 < time.monotonic() - began < 5
            assert (await store.finish(own, SUCCESS)).status is RunStatus.success
        assert not beats.fenced
        assert not beats.failures
        assert beats.longest_pause < 1


async def test_a_stranger_who_lets_go_after_five_seconds_is_outwaited(shared_postgres: Database) -> None:
    async with shared_postgres.store() as store:
        epoch = await store.register(new_worker())
        own = await running(store, epoch)
        with Beats(store, epoch) as beats:
            async with locked(shared_postgres, store, THREAD_ROW):
                finishing = asyncio.create_task(store.finish(own, SUCCESS))
                others = await asyncio.gather(*(lives(store, epoch, f"t{at}", 3) for at in range(5)))
                await asyncio.sleep(5)  # longer than two attempts to get the lock: the subject
                assert not finishing.done()
            assert (await finishing).status is RunStatus.success
        assert [len(done) for done in others] == [3] * 5, "other threads went on meanwhile"
        assert not beats.failures
        assert beats.longest_pause < 1


async def test_all_connections_busy_is_reported_and_delays_no_cancel(shared_postgres: Database) -> None:
    async with shared_postgres.store(connections=2, busy_timeout=3.0) as store:
        epoch = await store.register(new_worker())
        own = await running(store, epoch)
        other = await running(store, epoch, "other")
        with Beats(store, epoch) as beats:
            async with locked(shared_postgres, store, THREAD_ROW):
                stuck = [
                    asyncio.create_task(admitted(store, epoch, "t", multitask_strategy="enqueue"))
                    for _ in range(4)
                ]
                await wait_until(
                    lambda: sessions_of(store) == 2,
                    description="both connections wait for the lock",
                )
                decision = await cancel(store, other.run_id)
                await store.tick(epoch)
                assert not any(task.done() for task in stuck), "they wait, and the others have been answered"
                answers = await asyncio.gather(*stuck, return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
            # One that waits may get a connection in the last moment, and meets the lock itself then.
            assert any("all 2 connections" in str(answer) for answer in answers), answers
        assert decision is not None
        assert decision.won
        assert not beats.failures
        assert beats.longest_pause < 1
        assert (await row_of(store, own.run_id)).status is RunStatus.running


# ---- a standby, and a failover -------------------------------------------------------------------------


@contextmanager
def followed(server: PostgresServer) -> Generator[PostgresServer]:
    standby = server.standby()
    try:
        yield standby
    finally:
        standby.close()


async def test_a_standby_takes_no_writes_and_is_found_after_its_promotion(
    own_postgres: PostgresServer,
) -> None:
    async with on(own_postgres) as store:
        await store.register(new_worker())
    with followed(own_postgres) as standby:
        alone = PostgresStore(standby.url(), Options(away_timeout=0.5))
        with pytest.raises(StoreUnavailable, match="takes writes"):
            await alone.open()
        await alone.aclose()
        hosts = f"{own_postgres.host}:{own_postgres.port},{standby.host}:{standby.port}"
        url = own_postgres.url().rpartition("@")[0] + f"@{hosts}/postgres"
        async with on(url, away_timeout=20) as store:
            epoch = await store.register(new_worker())
            before = await running(store, epoch)
            await wait_until(lambda: has_all(standby, own_postgres), description="the standby has it all")
            with Beats(store, epoch) as beats:
                own_postgres.stop("immediate")
                asking = asyncio.create_task(admitted(store, epoch, "u"))
                await asyncio.sleep(0.05)
                assert not asking.done(), "there is no primary"
                standby.promote()
                assert (await asking).holds
                assert (await store.finish(before, SUCCESS)).status is RunStatus.success
                since = time.monotonic()
                await wait_until(lambda: beats.times[-1] > since, description="the heart beats there too")
            assert not beats.fenced


async def has_all(standby: PostgresServer, primary: PostgresServer) -> bool:
    replayed = await _position(standby, "pg_last_wal_replay_lsn()")
    return replayed >= await _position(primary, "pg_current_wal_lsn()")


async def _position(server: PostgresServer, which: str) -> int:
    async with Database(server.url()).connection() as cx:
        position: int = await cx.fetchval(f"SELECT ({which} - '0/0')::bigint")
        return position
