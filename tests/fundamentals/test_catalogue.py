"""Threads and runs as a gateway's routes use them, from any worker; and temporary threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator import (
    ConflictError,
    InvalidArgument,
    RunContext,
    RunManager,
    RunNotFound,
    RunStatus,
    Settings,
    StoreUnavailable,
    ThreadExists,
    ThreadNotFound,
    ThreadQuery,
    open_coordinator,
)
from coordinator.servers.valkey import ValkeyServer
from stores.base import CoordinationStore
from stores.rows import Finish, Outcome, Ownership, ThreadRow
from tests.support.agents import Agent, launched, quick, running
from tests.support.held import hold_calls
from tests.support.inside import assembly_of, records_of
from tests.support.runs import managing
from tests.support.teams import QUICK, team_of
from tests.support.waiting import wait_until

BRIEF: dict[str, Any] = {"keep_temporary": 0, "sweep": 3600.0}
"""Temporary threads may be removed at once, and only tests sweep."""


def store_of(manager: RunManager) -> CoordinationStore:
    return manager.store


async def sweep(manager: RunManager) -> None:
    await assembly_of(manager).expiry.sweep()


async def gone(call: Awaitable[Any]) -> bool:
    try:
        await call
    except (RunNotFound, ThreadNotFound):
        return True
    return False


@pytest.fixture(params=["redis", "store only"])
async def brief(
    request: pytest.FixtureRequest, tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> AsyncGenerator[list[RunManager]]:
    """Two workers that may remove temporary threads at once, and that sweep only when a test requests it."""
    redis = shared_valkey.url if request.param == "redis" else None
    async with team_of(2, tmp_path, redis=redis, namespace=namespace, **BRIEF) as managers:
        yield managers


# -- threads


async def test_thread_is_the_same_on_every_worker(team: list[RunManager]) -> None:
    a, b = team
    made = await a.threads.create(metadata={"a": 1}, user_id="u", ttl=60)
    assert UUID(made.thread_id)
    assert made.ttl_ms == 60_000
    assert await b.threads.get(made.thread_id, user_id="u") == made
    patched = await b.threads.update(made.thread_id, metadata={"b": 2}, ttl=None, user_id="u")
    assert (patched.metadata, patched.ttl_ms) == ({"a": 1, "b": 2}, None)
    assert await a.threads.search(ThreadQuery(metadata={"b": 2}), user_id="u") == [patched]
    assert await a.threads.count(user_id="u") == 1
    run, agent = await running(a, made.thread_id, user_id="u")
    assert [thread.status for thread in await b.threads.search(user_id="u")] == ["busy"]
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)
    await b.threads.delete(made.thread_id, user_id="u")
    assert await gone(a.threads.update(made.thread_id, user_id="u"))


async def test_concurrent_creation_creates_the_thread_once(team: list[RunManager]) -> None:
    for number in range(10):
        calls = [
            manager.threads.create(f"t{number}", metadata={"by": by}, user_id="u")
            for by, manager in enumerate(team * 2)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        (made,) = [answer for answer in answers if isinstance(answer, ThreadRow)]
        assert all(isinstance(answer, ThreadExists) for answer in answers if answer is not made)
        again = await team[0].threads.create(made.thread_id, if_exists="do_nothing", user_id="u")
        assert again == made


async def test_thread_must_exist_refuses_an_unknown_thread(team: list[RunManager]) -> None:
    a, b = team
    for strategy in ("reject", "enqueue", "interrupt", "rollback"):
        with pytest.raises(ThreadNotFound):
            await a.create_or_reject("t", thread_must_exist=True, multitask_strategy=strategy)
    assert await a.store.thread("t") is None
    await b.threads.create("t", user_id="u")
    with pytest.raises(ThreadNotFound):
        await a.create_or_reject("t", thread_must_exist=True, user_id="v")
    run, _ = await launched(a, "t", thread_must_exist=True, user_id="u")
    with pytest.raises(ConflictError) as busy:
        await b.create_or_reject("t", thread_must_exist=True, user_id="u")
    assert busy.value.active_run_id == run.run_id


async def test_deletion_among_concurrent_admissions_leaves_no_orphan(team: list[RunManager]) -> None:
    """An admitted run has a thread, whether it came before or after the deletion; a refused one leaves no
    row."""
    for number in range(15):
        thread = f"t{number}"
        await team[0].threads.create(thread)
        delete = asyncio.ensure_future(team[number % 2].threads.delete(thread))
        admissions = [
            asyncio.ensure_future(
                manager.create_or_reject(thread, thread_must_exist=True, multitask_strategy="enqueue")
            )
            for manager in team * 2
        ]
        await asyncio.wait([delete, *admissions])
        assert isinstance(delete.exception(), ConflictError | None)
        admitted = list[str]()
        for admission in admissions:
            if admission.exception() is None:
                admitted.append(admission.result().run_id)
            else:
                assert isinstance(admission.exception(), ThreadNotFound)
        row = await team[0].store.thread(thread)
        assert (row is None) == (not admitted)
        if delete.exception() is not None:
            assert len(admitted) == len(admissions), "refused, because a run was admitted first"
        if admitted:
            listed = await team[1].runs.of_thread(thread)
            assert {run.run_id for run in listed} == set(admitted)
        for run_id in admitted:
            await team[0].cancel(run_id)


# -- runs


async def test_run_that_is_being_cancelled_is_shown_as_running(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t", Agent(stubborn=True))
    await team[1].cancel(run.run_id)
    await agent.cancelled.wait()
    for manager in team:
        row = await manager.runs.get(run.run_id, thread_id="t")
        assert (row.shown_status, row.cancelling) == (RunStatus.running, True)
        assert [listed.run_id for listed in await manager.runs.in_flight("running")] == [run.run_id]
        assert await manager.runs.in_flight("pending") == []
        with pytest.raises(ConflictError):
            await manager.runs.delete(run.run_id)
    agent.may_stop.set()
    assert await team[1].cancel(run.run_id, wait=5)
    for manager in team:
        row = await manager.runs.get(run.run_id)
        assert (row.shown_status, row.cancelling) == (RunStatus.interrupted, False)
        assert await manager.runs.in_flight() == []


async def test_rolled_back_run_is_not_listed(team: list[RunManager]) -> None:
    kept, agent = await running(team[0], "t", Agent(saves={"n": 1}))
    agent.may_end.set()
    await team[0].wait(kept.run_id, timeout=20)
    undone, _ = await running(team[0], "t", Agent(saves={"n": 2}))
    assert await team[1].cancel(undone.run_id, action="rollback", wait=5)
    for manager in team:
        assert await gone(manager.runs.get(undone.run_id))
        assert [row.run_id for row in await manager.runs.of_thread("t")] == [kept.run_id]
        assert await gone(manager.runs.delete(undone.run_id))
        thread = await manager.threads.get("t")
        assert (thread.status, thread.values) == ("idle", {"n": 1})
    assert (await team[1].runs.explain(undone.run_id)).run.rolled_back, "operators see it"


async def test_runs_of_a_thread_are_listed_in_pages_and_by_status(team: list[RunManager]) -> None:
    runs = [(await launched(team[0], "t", multitask_strategy="enqueue"))[0] for _ in range(4)]
    await wait_until(lambda: runs[0].status is RunStatus.running, description="the first has started")
    ids = [run.run_id for run in runs][::-1]
    for manager in team:
        pages = [await manager.runs.of_thread("t", limit=3, offset=offset) for offset in (0, 3)]
        assert [[row.run_id for row in page] for page in pages] == [ids[:3], ids[3:]]
        pending = await manager.runs.of_thread("t", statuses=["pending"])
        assert [row.run_id for row in pending] == ids[:3]
        assert sorted(row.run_id for row in await manager.runs.in_flight("all", thread_id="t")) == sorted(ids)


async def test_deleted_run_is_unknown_on_every_worker(team: list[RunManager]) -> None:
    async def telling(ctx: RunContext) -> None:
        await ctx.emit("custom", 1)

    run = await team[0].create_or_reject("t")
    team[0].launch(run, telling)
    await team[0].wait(run.run_id, timeout=20)
    await team[0].runs.delete(run.run_id, thread_id="t")
    for manager in team:
        assert await gone(manager.runs.get(run.run_id))
        assert await manager.get(run.run_id) is None
        assert await gone(manager.events(run.run_id))


@pytest.mark.parametrize("how", ["deleted", "expired"])
async def test_wait_raises_run_not_found_when_the_run_is_removed(tmp_path: Path, how: str) -> None:
    """The run is removed before its own worker knows that it has ended."""
    async with team_of(2, tmp_path, tick=3600.0, sweep=3600.0) as (a, b):
        await wait_until(
            lambda: assembly_of(b).watch.ticked_at is not None, description="its first tick is over"
        )
        run, agent = await launched(b, "t", after_seconds=3600)
        assert run.task is not None
        waiting = asyncio.create_task(b.wait(run.run_id, timeout=30))
        await asyncio.sleep(0)
        await assembly_of(b).shared.store.row(
            run.run_id
        )  # reads are answered in their order: the first of `wait` is over
        ticks = hold_calls(b.store, "tick")
        await a.cancel(run.run_id, wait=5)
        assert not run.task.done()
        if how == "deleted":
            await b.runs.delete(run.run_id)
        else:
            await b.threads.update("t", ttl=0.001)
            await asyncio.sleep(0.01)
            await sweep(b)
        assert records_of(b).get(run.run_id) is run, "its worker still has the record of a run in flight"
        ticks.go_on.set()
        await assembly_of(b).watch.tick()
        async with asyncio.timeout(20):
            with pytest.raises(RunNotFound):
                await waiting
            await asyncio.wait((run.task,))
    assert not agent.started.is_set()


async def test_users_see_only_their_own_threads_and_runs(team: list[RunManager]) -> None:
    run, agent = await running(team[0], "t", user_id="u", metadata={"k": 1})
    for manager in team:
        assert await manager.threads.search(ThreadQuery(ids=("t",)), user_id="v") == []
        assert await manager.threads.count(user_id="v") == 0
        assert await manager.runs.in_flight(user_id="v") == []
        for call in (
            manager.threads.update("t", metadata={"x": 1}, user_id="v"),
            manager.runs.of_thread("t", user_id="v"),
            manager.runs.get(run.run_id, user_id="v"),
            manager.runs.delete(run.run_id, user_id="v"),
        ):
            assert await gone(call)
        for if_exists in ("raise", "do_nothing"):
            with pytest.raises(ThreadExists, match="'t' already exists"):
                await manager.threads.create("t", user_id="v", if_exists=if_exists)
        assert (await manager.runs.get(run.run_id, thread_id="t", user_id="u")).metadata == {"k": 1}
    assert agent.running


async def test_invalid_argument_is_named(alone: RunManager) -> None:
    for argument, call in (
        ("thread_id", alone.threads.create("")),
        ("metadata", alone.threads.create(metadata={"x": float("nan")})),
        ("if_exists", alone.threads.create(if_exists="banana")),  # pyright: ignore[reportArgumentType] - refused, which is tested
        ("ttl", alone.threads.create(ttl=0)),
        ("ttl", alone.threads.update("t", ttl=-1)),
        ("status", alone.threads.search(ThreadQuery(status="banana"))),
        ("sort_by", alone.threads.search(ThreadQuery(sort_by="values"))),  # pyright: ignore[reportArgumentType] - refused, which is tested
        ("sort_order", alone.threads.search(ThreadQuery(sort_order="up"))),  # pyright: ignore[reportArgumentType] - refused, which is tested
        ("limit", alone.threads.count(ThreadQuery(limit=-1))),
        ("values", alone.threads.search(ThreadQuery(values={"x": object()}))),
        ("ids", alone.threads.search(ThreadQuery(ids=("a\n",)))),
        ("statuses", alone.runs.of_thread("t", statuses=["banana"])),
        ("offset", alone.runs.of_thread("t", offset=-1)),
        ("status", alone.runs.in_flight("success")),  # pyright: ignore[reportArgumentType] - refused, which is tested
        ("temporary_thread", alone.create_or_reject("t", temporary_thread=1)),  # pyright: ignore[reportArgumentType] - refused, which is tested
    ):
        with pytest.raises(InvalidArgument) as refused:
            await call
        assert refused.value.argument == argument
    assert await alone.threads.count(ThreadQuery(temporary=True)) == 0


# -- temporary threads


async def test_temporary_thread_is_removed_after_its_run(brief: list[RunManager]) -> None:
    a, b = brief
    run, agent = await running(a, "tmp", temporary_thread=True, kwargs={"input": 1})
    for manager in brief:
        await sweep(manager)
        assert (await manager.runs.get(run.run_id)).shown_status is RunStatus.running
        assert await manager.threads.count() == 0, "it is not listed"
    agent.may_end.set()
    await a.wait(run.run_id, timeout=20)
    assert (await b.runs.get(run.run_id)).shown_status is RunStatus.success
    await sweep(b)
    for manager in brief:
        assert await manager.store.thread("tmp") is None
        assert await gone(manager.runs.get(run.run_id))
        assert await gone(manager.events(run.run_id))


@pytest.mark.parametrize("sweeper", [0, 1], ids=["its worker", "another one"])
async def test_late_writes_do_not_recreate_a_temporary_thread(brief: list[RunManager], sweeper: int) -> None:
    run, agent = await running(brief[0], "tmp", temporary_thread=True)
    agent.may_end.set()
    await brief[0].wait(run.run_id, timeout=20)
    await sweep(brief[sweeper])
    await brief[0].update_run_completion(run.run_id, status="success", total_tokens=7)
    await brief[0].set_status(run.run_id, "success")
    assert await store_of(brief[1]).thread("tmp") is None
    assert await store_of(brief[1]).row(run.run_id) is None


async def test_repeated_end_does_not_recreate_a_temporary_thread(
    brief: list[RunManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is committed, and a peer removes the thread before the owner receives the answer and writes
    again."""
    store, repeated = store_of(brief[0]), asyncio.Event()
    finish = store.finish

    async def losing(own: Ownership, outcome: Outcome, **options: Any) -> Finish:
        await finish(own, outcome, **options)
        await sweep(brief[1])
        monkeypatch.setattr(store, "finish", repeating)
        raise StoreUnavailable("the answer was lost")

    async def repeating(own: Ownership, outcome: Outcome, **options: Any) -> Finish:
        answer = await finish(own, outcome, **options)
        assert (answer.lost, answer.decision) == (True, None)
        repeated.set()
        return answer

    monkeypatch.setattr(store, "finish", losing)
    run, agent = await running(brief[0], "tmp", Agent(returns=1), temporary_thread=True)
    agent.may_end.set()
    assert await brief[0].wait(run.run_id, timeout=20) == 1
    assert repeated.is_set()
    assert await store.thread("tmp") is None
    assert await store.row(run.run_id) is None


async def test_events_of_a_temporary_thread_are_removed_from_redis(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    async def telling(ctx: RunContext) -> None:
        await ctx.emit("custom", 1)

    def logs() -> bytes:
        return shared_valkey.command("KEYS", f"{namespace}:{{t:tmp}}:log:*")

    url = shared_valkey.url
    async with team_of(2, tmp_path, redis=url, namespace=namespace, **BRIEF) as (a, b):
        run = await a.create_or_reject("tmp", temporary_thread=True)
        a.launch(run, telling)
        await a.wait(run.run_id, timeout=20)
        assert run.run_id.encode() in logs()
        await sweep(b)
        await wait_until(lambda: logs() == b"*0\r\n", description="its log is removed")


async def test_temporary_thread_of_a_dead_worker_is_removed(tmp_path: Path) -> None:
    """Any live worker removes it, at its own interval."""
    async with team_of(1, tmp_path, keep_temporary=0.1, sweep=0.05) as (alive,):
        async with team_of(1, tmp_path, keep_temporary=0.1) as (leaving,):
            run, _ = await running(leaving, "tmp", temporary_thread=True)

        async def passed() -> bool:
            return await alive.store.thread("tmp") is None

        await wait_until(passed, description="the thread has passed")
        assert await gone(alive.runs.get(run.run_id))


async def test_manager_without_a_store_sweeps_from_its_first_temporary_thread_on() -> None:
    settings = Settings(keep_temporary=0, sweep=0.02)
    async with managing(settings=settings) as manager:
        run = await manager.create_or_reject("tmp", temporary_thread=True)
        manager.launch(run, quick)
        await manager.wait(run.run_id, timeout=20)

        async def passed() -> bool:
            return await manager.store.thread("tmp") is None

        await wait_until(passed, description="the thread has passed")


async def test_expiry_among_concurrent_admissions_removes_no_busy_thread(brief: list[RunManager]) -> None:
    """If the admission precedes the sweep, the thread stays; otherwise there is no thread."""
    for number in range(40):
        thread = f"t{number}"
        await brief[0].threads.create(thread, ttl=0.001)
        await asyncio.sleep(0.002)
        admission, *_ = await asyncio.gather(
            brief[number % 2].create_or_reject(thread, thread_must_exist=True),
            sweep(brief[0]),
            sweep(brief[1]),
            return_exceptions=True,
        )
        row = await brief[0].store.thread(thread)
        if isinstance(admission, BaseException):
            assert isinstance(admission, ThreadNotFound)
            assert row is None
        else:
            assert row is not None
            assert (await brief[1].runs.get(admission.run_id)).thread_id == thread
            await brief[0].cancel(admission.run_id)


async def test_taken_over_temporary_run_is_evicted_after_keep_temporary(tmp_path: Path) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **{**QUICK, **BRIEF})
    async with (
        open_coordinator(settings=settings, assistants={"agent": quick}) as peer,
        open_coordinator(settings=settings) as sweeper,
    ):
        async with open_coordinator(settings=settings, assistants={"agent": quick}) as home:
            await running(home, "tmp", temporary_thread=True)
            run = await home.create_or_reject("tmp", "agent", multitask_strategy="enqueue")
            await home.worker.drain(grace=0)
        await peer.wait(run.run_id, timeout=20)
        assert await peer.get(run.run_id) is not None
        await sweep(sweeper)
        assert await peer.get(run.run_id) is None
