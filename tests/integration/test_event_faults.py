"""Streams while Redis is away, slow, emptied or lies: only completeness is lost, and readers learn that."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from coordinator import End, Event, Gap, RunManager, RunStatus
from coordinator.event_log import Appended
from coordinator.event_logs.redis import RedisEventLog
from coordinator.redis.link import RedisLink
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance.event_logs import entry, ids
from tests.fundamentals.test_streams import all_of, end_of, numbers
from tests.support.agents import running
from tests.support.inside import assembly_of, keeper_of, link_of
from tests.support.linked import linked
from tests.support.proxy import Proxy
from tests.support.teams import EVENT_BUDGET, keys_without_ttl, team_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


def followed(manager: RunManager, run_id: str) -> tuple[list[Event | Gap | End], asyncio.Task[None]]:
    """The items of a follower as they come, and the task that collects them."""
    items: list[Event | Gap | End] = []

    async def follow() -> None:
        async for item in manager.follow(run_id):
            items.append(item)  # noqa: PERF401 - the list is read meanwhile

    return items, asyncio.create_task(follow())


async def followed_from_afar(items: list[Event | Gap | End], number: int) -> None:
    await wait_until(lambda: len(items) >= number, description=f"{number} items have come")


# ---- one append ----------------------------------------------------------------------------------------


async def test_an_append_whose_answer_was_lost_is_done_once(
    proxy: Proxy, shared_valkey: ValkeyServer, namespace: str
) -> None:
    """The connection breaks after the server has done it: sent again, it is recognised."""
    async with linked(proxy.url, namespace, budget=2.0) as link:
        log = RedisEventLog(link, ttl=60)
        assert await log.append("t", "r", entry(1, 1)) is Appended.done
        proxy.drop_replies = 1
        appending = asyncio.create_task(log.append("t", "r", entry(1, 2)))
        await wait_until(lambda: not proxy.drop_replies, description="the answer was swallowed")
        keeper_of(link).drop("reset by the test")
        again = await appending
        await wait_until(link.ping, description="back")
        assert again in (
            Appended.done,
            Appended.lost,
        )  # lost where the connection was too young to be replaced
        assert await log.append("t", "r", entry(1, 2)) is Appended.done
        assert await log.append("t", "r", entry(1, 3)) is Appended.done
        assert await ids(log, "r") == ["1-1", "1-2", "1-3"]


async def test_a_black_hole_costs_an_emit_the_budget_and_then_nothing(proxy: Proxy, namespace: str) -> None:
    async with linked(proxy.url, namespace) as link:
        log = RedisEventLog(link, ttl=60)
        proxy.black_hole()
        began = time.perf_counter()
        assert await log.append("t", "r", entry(1, 1)) is Appended.lost
        assert time.perf_counter() - began < 0.6
        began = time.perf_counter()
        for number in range(2, 1000):
            assert await log.append("t", "r", entry(1, number)) is Appended.lost
        assert time.perf_counter() - began < 0.6
        proxy.restore()
        await wait_until(link.ping, description="back")
        assert await log.append("t", "r", entry(1, 1000)) is Appended.done


@pytest.mark.parametrize("emptied", [True, False], ids=["has room again", "stays full"])
async def test_events_for_a_full_server_wait_for_room_and_the_run_goes_on(
    own_valkey: ValkeyServer, tmp_path: Path, emptied: bool
) -> None:
    async with team_of(1, tmp_path, redis=own_valkey.url) as (manager,):
        run, agent = await running(manager, "t")
        own_valkey.command("CONFIG", "SET", "maxmemory", "1")
        await agent.ctx.emit("custom", 1)
        if emptied:
            own_valkey.command("CONFIG", "SET", "maxmemory", "0")
        agent.may_end.set()
        items = await all_of(manager.follow(run.run_id))
        assert numbers(items) == ([1] if emptied else [])
        assert end_of(items).complete is emptied
        assert run.status is RunStatus.success


# ---- while a follower reads ----------------------------------------------------------------------------


def reads_of(server: ValkeyServer) -> int:
    """The number of XRANGE that were executed, also by scripts."""
    match = re.search(rb"cmdstat_xrange:calls=(\d+)", server.command("INFO", "commandstats"))
    return 0 if match is None else int(match[1])


async def test_follower_of_another_worker_reads_no_log_for_published_events(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """It receives each with its announcement, but for a few on a slow machine; a large one is read from the
    log."""
    async with team_of(2, tmp_path, redis=own_valkey.url, tick=20.0) as (owner, other):
        run, agent = await running(owner, "t")
        items, following = followed(other, run.run_id)
        local, following_here = followed(owner, run.run_id)
        await agent.ctx.emit("custom", 1)
        await followed_from_afar(items, 1)
        await followed_from_afar(local, 1)
        before = reads_of(own_valkey)
        for number in range(2, 102):
            await agent.ctx.emit("custom", number)
            if number % 5 == 0:  # a follower that is further behind reads a page
                await followed_from_afar(items, number)
                await followed_from_afar(local, number)
        await followed_from_afar(items, 101)
        await followed_from_afar(local, 101)
        read = reads_of(own_valkey)
        assert read <= before + 10
        await agent.ctx.emit("custom", "x" * 5000)
        await followed_from_afar(items, 102)
        assert reads_of(own_valkey) > read
        agent.may_end.set()
        await asyncio.gather(following, following_here)
        assert numbers(items)[:101] == numbers(local)[:101] == list(range(1, 102))
        assert end_of(items).complete
        assert end_of(local).complete


async def test_lost_announcements_are_made_up_from_the_log(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url, event_budget=EVENT_BUDGET) as (owner, other):
        run, agent = await running(owner, "t")
        items, following = followed(other, run.run_id)
        await agent.ctx.emit("custom", 1)
        await followed_from_afar(items, 1)
        for number in range(2, 40):
            if number % 10 == 0:
                own_valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
            await agent.ctx.emit("custom", number)
        agent.may_end.set()
        await following
        assert numbers(items) == list(range(1, 40))
        assert end_of(items).complete


async def test_emptied_while_followed(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    """A follower that was up to date has missed nothing; a later one gets a gap at the start of the log."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        items, following = followed(other, run.run_id)
        for number in range(1, 6):
            await agent.ctx.emit("custom", number)
        await followed_from_afar(items, 5)
        own_valkey.command("FLUSHALL")
        for number in range(6, 11):
            await agent.ctx.emit("custom", number)
        agent.may_end.set()
        await following
        assert numbers(items) == list(range(1, 11))
        assert end_of(items).complete
        late = await all_of(other.follow(run.run_id))
        assert isinstance(late[0], Gap)
        assert late[0].after is None
        assert numbers(late) == list(range(6, 11))


async def test_emptied_after_the_end(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        (event, end) = await all_of(other.follow(run.run_id))
        assert isinstance(event, Event)
        own_valkey.command("FLUSHALL")
        assert await all_of(other.follow(run.run_id, after=str(event.id))) == [
            Gap(str(event.id), None),
            End(run.run_id, RunStatus.success, None, None, str(event.id), complete=False),
        ]
        assert await all_of(other.follow(run.run_id)) == [
            Gap(None, None),
            End(run.run_id, RunStatus.success, None, None, None, complete=False),
        ]
        assert isinstance(end, End)


async def test_an_expired_log_ends_with_a_gap(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url, event_log_ttl=0.05) as (owner, other):
        run, agent = await running(owner, "t")
        await agent.ctx.emit("custom", 1)
        agent.may_end.set()
        await owner.wait(run.run_id, timeout=20)

        items = list[Event | Gap | End]()

        async def of_a_gap() -> bool:
            items[:] = await all_of(other.follow(run.run_id))
            return any(isinstance(one, Gap) for one in items)

        await wait_until(of_a_gap, description="the log has expired, counted from the end of the run")
        gap, end = items
        assert gap == Gap(None, None)
        assert isinstance(end, End)
        assert not end.complete


async def test_restarted_while_followed(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    """What is emitted while it is away is kept and appended when it is back, in order."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        items, following = followed(other, run.run_id)
        for number in range(1, 4):
            await agent.ctx.emit("custom", number)
        await followed_from_afar(items, 3)
        own_valkey.kill()
        began = time.perf_counter()
        for number in range(4, 7):
            await agent.ctx.emit("custom", number)
        assert time.perf_counter() - began < 1.5
        own_valkey.start()

        async def taken() -> bool:
            await agent.ctx.emit("custom", "again")
            return any(isinstance(item, Event) for item in await owner.events(run.run_id, after="1-6"))

        await wait_until(taken, description="events are taken again")
        await agent.ctx.emit("custom", "last")
        agent.may_end.set()
        await following
        assert numbers(items)[:6] == [1, 2, 3, 4, 5, 6]
        assert numbers(items)[-1] == "last"
        assert [item for item in items if isinstance(item, Gap)] == []
        assert end_of(items).complete


async def test_pause_of_redis_costs_streams_no_event(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        runs = [await running(owner, f"t{number}") for number in range(3)]
        follows = [followed(other, run.run_id) for run, _ in runs]
        own_valkey.pause()
        for number in range(100):
            await asyncio.gather(*(agent.ctx.emit("custom", number) for _, agent in runs))
        own_valkey.resume()
        for (_, agent), (items, _) in zip(runs, follows, strict=True):
            await agent.ctx.emit("custom", 100)
            await wait_until(lambda items=items: len(items) == 101, description="all have arrived")
            agent.may_end.set()
        for items, following in follows:
            await following
            assert numbers(items) == list(range(101))
            assert end_of(items).complete


async def test_the_end_comes_also_while_redis_is_away(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        await agent.ctx.emit("custom", 1)
        async with other.follow(run.run_id) as followed:
            assert isinstance(await anext(followed), Event)
            own_valkey.kill()
            await agent.ctx.emit("custom", 2)
            agent.may_end.set()
            assert await all_of(followed) == [
                Gap("1-1", None),
                End(run.run_id, RunStatus.success, None, None, "1-1", complete=False),
            ]


async def test_a_deaf_follower_finds_events_and_end_by_itself(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Hints are forged or lost; the poll does without."""
    async with team_of(2, tmp_path, redis=own_valkey.url) as (owner, other):
        run, agent = await running(owner, "t")
        channel = "rc:{t:t}:ev"
        async with other.follow(run.run_id) as followed:
            own_valkey.command("PUBLISH", channel, f"log:{2**62}-1:{run.run_id}")
            for forged in ("log:", "log:1-1", "log:x-y:z", f"log:{'9' * 30}-1:{run.run_id}"):
                own_valkey.command("PUBLISH", channel, forged)
            await agent.ctx.emit("custom", 1)
            item = await anext(followed)
            assert isinstance(item, Event)
            agent.may_end.set()
            assert isinstance(await anext(followed), End)


async def test_many_followers_share_reads(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    async with team_of(2, tmp_path, redis=own_valkey.url, tick=5.0) as (owner, other):
        run, agent = await running(owner, "t")
        link = _bulk_link_of(other)
        await wait_until(
            link.ping, description="connected: a log that cannot be read yet is left to the tick"
        )
        followers = [followed(other, run.run_id) for _ in range(300)]

        async def all_received(number: int) -> None:
            """Side by side from event to event: who falls behind reads for itself, and may."""
            await wait_until(
                lambda: all(len(items) > number for items, _ in followers),
                description=f"all have received event {number}",
            )

        await agent.ctx.emit("custom", 0)
        await all_received(0)
        link = _bulk_link_of(other)
        before, rows_before = link.counters.sent, other.worker.store_counters()["reads"]
        for number in range(1, 21):
            await agent.ctx.emit("custom", number)
            await all_received(number)
        assert link.counters.sent - before < 150, "and not 300 reads for each of 20 events"
        rows = other.worker.store_counters()["reads"] - rows_before
        assert rows < 1500, "the row is read where no event comes, and not 300 times for each of 20 events"
        agent.may_end.set()
        for items, following in followers:
            await following
            assert numbers(items) == list(range(21))
    assert not keys_without_ttl(own_valkey, "rc")


def _bulk_link_of(manager: RunManager) -> RedisLink:
    log = assembly_of(manager).shared.event_log
    assert isinstance(log, RedisEventLog)
    return link_of(log)
