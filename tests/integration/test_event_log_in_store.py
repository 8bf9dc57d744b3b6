"""Event logs in the store: what becomes of streams where it is locked or full, and where Redis is emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator import Gap, RunManager, RunStatus
from coordinator.event_logs.store import StoreEventLog
from coordinator.servers.valkey import ValkeyServer
from stores.errors import StoreFull, StoreUnavailable
from tests.fundamentals.test_streams import all_of, end_of, numbers
from tests.integration.test_event_faults import followed, followed_from_afar
from tests.support.agents import running
from tests.support.builders import locked, stored
from tests.support.inside import assembly_of, backlog_of, local_log_of, poll_every, store_behind
from tests.support.postgres import Database
from tests.support.teams import team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


def log_of(manager: RunManager) -> StoreEventLog:
    log = assembly_of(manager).shared.event_log
    assert isinstance(log, StoreEventLog)
    return log


@pytest.fixture
async def team(tmp_path: Path) -> AsyncGenerator[list[RunManager]]:
    async with team_of(2, tmp_path) as managers:
        yield managers


async def until_written(manager: RunManager) -> None:
    await wait_until(lambda: not backlog_of(log_of(manager)), description="all events are written")


async def test_a_store_that_is_away_for_a_second_costs_time_and_no_event(
    team: list[RunManager], tmp_path: Path
) -> None:
    """The run continues; followers on its own worker get events at once, others when the store is back."""
    owner, other = team
    run, agent = await running(owner, "t")
    local, following_locally = followed(owner, run.run_id)
    remote, following_remotely = followed(other, run.run_id)
    await agent.ctx.emit("custom", 0)
    await followed_from_afar(remote, 1)
    with locked(tmp_path / "runs.db"):
        for number in range(1, 50):
            async with asyncio.timeout(1):
                await agent.ctx.emit("custom", number)
        await followed_from_afar(local, 50)
        assert numbers(remote) == [0]
        await asyncio.sleep(1.0)  # the outage: its length is what is tested
    await followed_from_afar(remote, 50)
    agent.may_end.set()
    await asyncio.gather(following_locally, following_remotely)
    for items in (local, remote):
        assert numbers(items) == list(range(50))
        assert end_of(items).complete


@pytest.mark.parametrize("fault", [StoreFull, StoreUnavailable])
async def test_a_store_without_room_is_tried_again_and_the_run_goes_on(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, fault: type[StoreUnavailable]
) -> None:
    owner, other = team
    run, agent = await running(owner, "t")
    store: Any = assembly_of(owner).shared.store
    append, refused = store.append_events, list[int]()

    async def full(*args: Any, **kwargs: Any) -> Any:
        refused.append(1)
        raise fault("no room")

    monkeypatch.setattr(store, "append_events", full)
    for number in range(10):
        await agent.ctx.emit("custom", number)
    await wait_until(lambda: len(refused) >= 3, description="it is tried again")
    assert await other.events(run.run_id) == []
    monkeypatch.setattr(store, "append_events", append)
    agent.may_end.set()
    items = await all_of(other.follow(run.run_id))
    assert numbers(items) == list(range(10))
    assert end_of(items).complete
    assert end_of(items).status is RunStatus.success


async def newest_is_stored(manager: RunManager, run_id: str) -> bool:
    """Event 999 of a thousand."""
    return numbers(await manager.events(run_id, after="1-999", limit=1)) == [999]


async def test_events_that_a_full_store_never_takes_become_a_gap(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is kept: the oldest are dropped, each run's newest stay."""
    monkeypatch.setattr("coordinator.event_logs.backlog.MAX_BYTES", 100_000)
    owner, other = team
    run, agent = await running(owner, "t")
    store: Any = assembly_of(owner).shared.store
    append = store.append_events

    async def full(*args: Any, **kwargs: Any) -> Any:
        raise StoreFull("no room")

    monkeypatch.setattr(store, "append_events", full)
    for number in range(1000):
        async with asyncio.timeout(1):
            await agent.ctx.emit("custom", number)
    monkeypatch.setattr(store, "append_events", append)
    agent.may_end.set()
    # A follower waits for five seconds for the end of a log: the retries of a full store may take longer.
    await wait_until(lambda: newest_is_stored(other, run.run_id), description="the newest event is stored")
    items = await all_of(other.follow(run.run_id))
    assert len([one for one in items if isinstance(one, Gap)]) == 1
    assert numbers(items)[-1] == 999
    assert not end_of(items).complete


async def test_a_drain_leaves_the_log_closed(tmp_path: Path) -> None:
    async with team_of(1, tmp_path) as (other,):
        async with team_of(1, tmp_path) as (owner,):
            run, agent = await running(owner, "t")
            await agent.ctx.emit("custom", 1)
            items, following = followed(other, run.run_id)
            await owner.worker.drain(0.1)
        await following
        assert numbers(items) == [1]
        assert end_of(items).complete


async def test_events_of_runs_without_remote_followers_are_written_together(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, _ = team
    calls = list[int]()
    store: Any = assembly_of(owner).shared.store
    append = store.append_events

    async def counted(logs: Any, *, ttl: float) -> Any:
        calls.append(len(logs))
        return await append(logs, ttl=ttl)

    monkeypatch.setattr(store, "append_events", counted)
    agents = [(await running(owner, f"t{number}"))[1] for number in range(20)]
    for agent in agents:
        for number in range(10):
            await agent.ctx.emit("custom", number)
    await until_written(owner)
    assert sum(calls) <= 2 * len(agents)
    assert len(calls) <= 4
    for agent in agents:
        agent.may_end.set()


async def test_events_outlive_redis(tmp_path: Path, own_valkey: ValkeyServer) -> None:
    """A setting: then Redis only rings."""
    async with team_of(2, tmp_path, redis=own_valkey.url, event_log="store") as (owner, other):
        run, agent = await running(owner, "t")
        items, following = followed(other, run.run_id)
        for number in range(10):
            await agent.ctx.emit("custom", number)
        await followed_from_afar(items, 10)
        own_valkey.command("FLUSHALL")
        agent.may_end.set()
        await following
        for manager in (owner, other):
            local_log_of(log_of(manager)).forget(run.run_id)
            late = await all_of(manager.follow(run.run_id))
            assert numbers(late) == list(range(10))
            assert end_of(late).complete
        assert own_valkey.command("KEYS", "*:log:*") == b"*0\r\n"


@asynccontextmanager
async def ringing(where: str, folder: Path, valkey: ValkeyServer, postgres: Database) -> AsyncGenerator[Any]:
    if where == "redis":
        async with team_of(2, folder, redis=valkey.url, event_log="store") as team:
            yield team
    else:
        async with (
            postgres.worker() as (url, schema),
            team_of(2, folder, store=url, postgres_schema=schema) as team,
        ):
            yield team


@pytest.mark.parametrize("where", ["redis", "postgres"])
async def test_followers_are_rung_and_do_not_poll(
    where: str,
    tmp_path: Path,
    own_valkey: ValkeyServer,
    shared_postgres: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ringing(where, tmp_path, own_valkey, shared_postgres) as (owner, other):
        run, agent = await running(owner, "t")

        async def never(*args: Any) -> Any:
            raise AssertionError("the follower polls")

        monkeypatch.setattr(store_behind(log_of(other)), "log_tops", never)
        following = other.follow(run.run_id)
        poll_every(following, 60.0)
        async with following:
            for number in range(3):
                await agent.ctx.emit("custom", number)
                async with asyncio.timeout(10):
                    item = await anext(following)
                assert item.data == number
        agent.may_end.set()


async def test_without_a_bell_followers_look_for_themselves(
    shared_postgres: Database, tmp_path: Path
) -> None:
    """As behind a pooler without a direct address."""
    async with (
        shared_postgres.worker() as (url, schema),
        team_of(1, tmp_path, store=url, postgres_schema=schema) as (owner,),
    ):
        from coordinator import Settings, open_coordinator

        silent = Settings(store=url, postgres_schema=schema, postgres_notify=False)
        async with open_coordinator(settings=silent) as other:
            run, agent = await running(owner, "t")
            following = other.follow(run.run_id)
            poll_every(following, 60.0)
            async with following:
                for number in range(3):
                    await agent.ctx.emit("custom", number)
                    async with asyncio.timeout(10):
                        item: Any = await anext(following)
                    assert item.data == number
            agent.may_end.set()


async def test_a_log_that_has_expired_is_a_gap(tmp_path: Path) -> None:
    async with team_of(2, tmp_path, event_log_ttl=0.5) as (owner, other):
        run, agent = await running(owner, "t")
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        await other.wait(run.run_id)
        path = tmp_path / "runs.db"
        await wait_until(
            lambda: not stored(path, "SELECT run_id FROM event_logs"), description="it has expired"
        )
        items = await all_of(other.follow(run.run_id))
        assert [type(one).__name__ for one in items] == ["Gap", "End"]
        assert not end_of(items).complete


async def test_with_memory_nothing_is_stored(tmp_path: Path) -> None:
    async with team_of(2, tmp_path, event_log="memory") as (owner, other):
        run, agent = await running(owner, "t")
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        assert numbers(await all_of(owner.follow(run.run_id))) == [1]
        items = await all_of(other.follow(run.run_id))
        assert isinstance(items[0], Gap)
    assert stored(tmp_path / "runs.db", "SELECT run_id FROM run_events") == []
