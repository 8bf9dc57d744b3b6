"""While the store is unavailable, the writes of an owner are queued. They are written in order when it is
back."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator import RunManager, RunStatus
from coordinator.errors import OutboxFull, StoreUnavailable
from stores.outbox import Outbox
from tests.support.agents import Agent, launched, quick, running
from tests.support.builders import locked, stored
from tests.support.inside import assembly_of, jobs_of
from tests.support.teams import team_of
from tests.support.waiting import wait_until

AWAY = 5.0
PATIENT: dict[str, Any] = {"busy_timeout": 0.1, "lease_ttl": 60.0}
"""A lease that outlasts the outage."""


async def until_pending(manager: RunManager, count: int) -> None:
    description = f"{count} writes are pending"
    await wait_until(lambda: manager.worker.pending_writes == count, description=description)


async def until_idle(manager: RunManager) -> None:
    """Waits for the job that an admission starts (its claim): otherwise that would be pending as well."""
    await wait_until(lambda: not jobs_of(manager), description="no job is in progress")


async def several(manager: RunManager, count: int) -> list[tuple[str, Agent]]:
    team = [await running(manager, f"t{at}") for at in range(count)]
    return [(run.run_id, agent) for run, agent in team]


@pytest.mark.slow
async def test_outage_of_five_seconds_loses_no_write_and_keeps_the_order(tmp_path: Path) -> None:
    """Reported failure 26: the store is busy for 5 s, and no transition is lost."""
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        runs = await several(manager, 12)
        began = time.monotonic()
        with locked(tmp_path / "runs.db"):
            for done, (_, agent) in enumerate(reversed(runs), start=1):
                agent.returns = {"result": done}
                agent.may_end.set()
                await until_pending(manager, done)
            await wait_until(
                lambda: time.monotonic() - began > AWAY, description="5 s have passed", timeout=AWAY + 1
            )
            assert manager.worker.pending_writes == len(runs)
        for done, (run_id, _) in enumerate(reversed(runs), start=1):
            assert await manager.wait(run_id, timeout=20) == {"result": done}
        assert manager.worker.pending_writes == 0
    finished = stored(
        tmp_path / "runs.db", "SELECT run_id FROM transitions WHERE what = 'finished' ORDER BY id"
    )
    assert finished == [run_id for run_id, _ in reversed(runs)]


async def test_pending_writes_of_a_run_are_written_in_order(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        run, agent = await running(manager, "t")
        with locked(tmp_path / "runs.db"):
            await manager.update_model_name(run.run_id, "first")
            await manager.update_model_name(run.run_id, "second")
            await manager.update_run_completion(run.run_id, total_tokens=7)
            await manager.update_run_completion(run.run_id, message_count=3)
            agent.may_end.set()
            await until_pending(manager, 5)
        await manager.wait(run.run_id, timeout=20)
        row = await manager.store.get(run.run_id)
    assert row is not None
    assert (row["model_name"], row["total_tokens"], row["message_count"]) == ("second", 7, 3)
    assert row["status"] == "success"


async def test_set_status_returns_at_once_during_an_outage(tmp_path: Path) -> None:
    """It returns when the write is queued, and the record shows the status that will be written."""
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        run = await manager.create_or_reject("t")
        assert await manager.start(run.run_id)
        with locked(tmp_path / "runs.db"):
            await manager.set_status(run.run_id, RunStatus.error, error="why")
            await until_pending(manager, 1)
            assert stored(tmp_path / "runs.db", "SELECT status FROM runs") == ["running"]
        assert await assembly_of(manager).runs.waiter.until_settled(run.run_id, 5)
        assert stored(tmp_path / "runs.db", "SELECT status || error FROM runs") == ["errorwhy"]


async def test_end_of_a_queued_run_is_written_after_an_outage(tmp_path: Path) -> None:
    """Its caller ends it while the store is unavailable: no worker executes it at its turn."""
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        first, holder = await running(manager, "t")
        given_up, never = await launched(manager, "t", multitask_strategy="enqueue")
        await until_idle(manager)
        with locked(tmp_path / "runs.db"):
            holder.may_end.set()
            # The end of the holder passes the thread on before the store has the end of the queued run.
            await until_pending(manager, 1)
            await manager.set_status(given_up.run_id, RunStatus.error, error="why")
            await until_pending(manager, 2)
        await manager.wait(first.run_id, timeout=20)
        assert await assembly_of(manager).runs.waiter.until_settled(given_up.run_id, 5)
        assert not never.started.is_set()
        assert (given_up.status, given_up.error) == (RunStatus.error, "why")
        another = await manager.create_or_reject("t")
        manager.launch(another, quick)
        await manager.wait(another.run_id, timeout=20)
    ends = stored(tmp_path / "runs.db", "SELECT status || holds_thread FROM runs ORDER BY created_us")
    assert ends == ["success0", "error0", "success0"]


async def test_queued_run_is_cleaned_up_during_an_outage(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        _, holder = await running(manager, "t")
        dropped, _ = await launched(manager, "t", multitask_strategy="enqueue")
        await until_idle(manager)
        with locked(tmp_path / "runs.db"):
            await manager.cleanup(dropped.run_id, delay=0)
            await until_pending(manager, 1)
        await until_pending(manager, 0)
        assert stored(tmp_path / "runs.db", "SELECT status FROM runs ORDER BY created_us")[1] == "interrupted"
        holder.may_end.set()


async def test_ended_queued_run_that_is_claimed_frees_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the thread by a claim whose answer is lost. Then its end is written, and the thread is free."""
    async with team_of(2, tmp_path, **PATIENT) as (manager, peer):
        first, holder = await running(peer, "t")
        dropped, _ = await launched(manager, "t", multitask_strategy="enqueue")
        await until_idle(manager)
        store: Any = manager.store
        claim, update_status = store.claim, store.update_status
        claimed, back = asyncio.Event(), asyncio.Event()

        async def unanswered(*args: Any, **kwargs: Any) -> Any:
            answer = await claim(*args, **kwargs)
            if not claimed.is_set():
                claimed.set()
                raise StoreUnavailable("the outcome is unknown")
            return answer

        async def away(*args: Any, **kwargs: Any) -> Any:
            if not back.is_set():
                raise StoreUnavailable("it is away")
            return await update_status(*args, **kwargs)

        monkeypatch.setattr(store, "claim", unanswered)
        monkeypatch.setattr(store, "update_status", away)
        await manager.cleanup(dropped.run_id, delay=0)
        holder.may_end.set()
        await peer.wait(first.run_id, timeout=20)
        await claimed.wait()
        assert (await manager.runs.explain(dropped.run_id)).run.holds_thread
        back.set()

        async def freed() -> bool:
            return not (await manager.runs.explain(dropped.run_id)).run.holds_thread

        await wait_until(freed, description="its thread is free")
        assert (await manager.runs.explain(dropped.run_id)).run.status is RunStatus.interrupted


async def test_task_of_a_removed_queued_run_ends_when_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer has cancelled and removed it. Waiters of its task are woken."""
    async with team_of(2, tmp_path, **PATIENT) as (mine, peer):
        _, holder = await running(mine, "t")
        dropped, _ = await launched(mine, "t", multitask_strategy="enqueue")
        await until_idle(mine)
        task, store = dropped.task, mine.store
        assert task is not None
        update_status, back = store.update_status, asyncio.Event()

        async def away(*args: Any, **kwargs: Any) -> Any:
            if not back.is_set():
                raise StoreUnavailable("it is away")
            return await update_status(*args, **kwargs)

        monkeypatch.setattr(store, "update_status", away)
        await mine.cleanup(dropped.run_id, delay=0)
        assert await peer.cancel(dropped.run_id)
        await peer.runs.delete(dropped.run_id)
        back.set()
        async with asyncio.timeout(20):
            await asyncio.wait((task,))
        holder.may_end.set()


async def test_cancelled_caller_leaves_no_partial_write(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        run = await manager.create_or_reject("t")
        assert await manager.start(run.run_id)
        with locked(tmp_path / "runs.db"):
            setting = asyncio.create_task(manager.set_status(run.run_id, RunStatus.success))
            await asyncio.sleep(0)
            setting.cancel()
            await until_pending(manager, 1)
        with pytest.raises(asyncio.CancelledError):
            await setting
        assert stored(tmp_path / "runs.db", "SELECT status || holds_thread FROM runs") == ["success0"]
        assert (await manager.create_or_reject("t")).run_id != run.run_id


async def test_fenced_worker_discards_pending_writes_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with team_of(1, tmp_path, busy_timeout=0.1, lease_ttl=1.0, renew=0.2) as (manager,):
        run, agent = await running(manager, "t")
        epoch = manager.worker.epoch
        agent.returns = "too late"
        with locked(tmp_path / "runs.db"), caplog.at_level(logging.ERROR, "stores.outbox"):
            agent.may_end.set()
            await until_pending(manager, 1)
            await until_pending(manager, 0)  # the lease has ended
            assert run.run_id in caplog.text
            assert "its peers end" in caplog.text
            with pytest.raises(StoreUnavailable):  # behind an attempt that was under way, which may not win
                await assembly_of(manager).shared.store.update_model_name(run.run_id, None)
        await wait_until(lambda: manager.worker.epoch > epoch, description="it registers anew")
        ends = "SELECT status FROM runs WHERE settled_at IS NOT NULL AND result IS NULL"
        await wait_until(
            lambda: stored(tmp_path / "runs.db", ends) == ["error"],
            description="a peer ends the run",
        )


@pytest.mark.parametrize("limit", [3, 5], ids=["beyond its limit", "at its limit"])
async def test_full_outbox_refuses_admissions_until_it_drains(tmp_path: Path, limit: int) -> None:
    async with team_of(1, tmp_path, **PATIENT, outbox_limit=limit) as (manager,):
        runs = await several(manager, 5)
        with locked(tmp_path / "runs.db"):
            for done, (_, agent) in enumerate(runs, start=1):  # those under way are never dropped
                agent.may_end.set()
                await until_pending(manager, done)
            with pytest.raises(OutboxFull, match="5 finished results wait for the store") as full:
                await manager.create_or_reject("another")
            assert isinstance(full.value, StoreUnavailable)
            with pytest.raises(OutboxFull):
                await manager.create("another")
        for run_id, _ in runs:
            await manager.wait(run_id, timeout=20)
        run = await manager.create_or_reject("another")
        manager.launch(run, quick)
        await manager.wait(run.run_id, timeout=20)


async def test_shutdown_retries_pending_writes_once(tmp_path: Path) -> None:
    async with team_of(1, tmp_path, **PATIENT) as (manager,):
        run, _ = await running(manager, "t")
        with locked(tmp_path / "runs.db"):
            await manager.update_model_name(run.run_id, "m")
            assert manager.worker.pending_writes == 1
    assert stored(tmp_path / "runs.db", "SELECT model_name FROM runs") == ["m"]


async def test_write_that_fails_after_the_outbox_was_closed_is_refused() -> None:
    async def away() -> None:
        raise StoreUnavailable("it is away")

    outbox = Outbox()
    await outbox.aclose()
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailable, match="this worker has shut down"):
            await outbox.deliver("r", 1, "the end of a run", away)
