"""A peer of a newer version has written a value that this version does not know."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from coordinator import RunManager
from tests.support.agents import running
from tests.support.builders import sql_of
from tests.support.inside import assembly_of
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until

pytestmark = on_every_store

DECIDED = (
    "UPDATE runs SET status = 'interrupted', cancel_action = 'suspend', cancel_cause = 'quota',"
    " cancel_reason = 'over budget', cancel_requested_at = updated_at WHERE run_id = ?"
)


async def test_run_with_an_unknown_cause_is_stopped_and_settled(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t")
    await asyncio.to_thread(sql_of(a.store), DECIDED, run.run_id)
    assert await a.wait(run.run_id, timeout=20) is None
    assert agent.cancels == 1
    assert agent.ctx.abort is not None
    assert (agent.ctx.abort.cause, agent.ctx.abort.reason) == ("quota", "over budget")
    assert not await b.has_inflight("t")
    for manager in team:
        assert [row.cancel_cause for row in await manager.runs.recent()] == ["quota"]
        explained = await manager.runs.explain(run.run_id)
        assert (explained.run.cancel_action, explained.run.cancel_cause) == ("suspend", "quota")
        assert "quota" in [step.cause for step in explained.transitions]
        assert (await manager.runs.receipt(run.run_id)).cause == "quota"
        assert (await manager.worker.health()).ready


async def test_run_that_fails_in_a_tick_delays_no_other(
    team: list[RunManager], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = team
    bad, _ = await running(a, "bad")
    delivery = assembly_of(a).runs.delivery
    look, looks = delivery.refresh_from_store, 0

    async def fail(run_id: str) -> None:
        nonlocal looks
        if run_id == bad.run_id:
            looks += 1
            raise ValueError("this row cannot be read")
        await look(run_id)

    monkeypatch.setattr(delivery, "refresh_from_store", fail)
    await asyncio.to_thread(sql_of(a.store), DECIDED, bad.run_id)
    await wait_until(lambda: looks >= 1, description="the tick has met the run")
    other, agent = await running(a, "other")
    await asyncio.to_thread(sql_of(a.store), DECIDED, other.run_id)
    await wait_until(agent.stopped.is_set, description="the tick stops the other run")
    seen = looks
    await wait_until(lambda: looks >= seen + 5, description="more ticks")
    assert (await a.worker.health()).ready
    assert len([line for line in caplog.messages if "The tick failed for" in line]) == 1
    monkeypatch.undo()
    await a.wait(bad.run_id, timeout=20)


async def test_worker_whose_ticks_fail_is_not_ready_and_names_the_error(
    team: list[RunManager], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = team

    async def fail(*_: object) -> Any:
        raise ValueError("of the future")

    monkeypatch.setattr(a.store, "tick", fail)
    with caplog.at_level(logging.CRITICAL):
        await wait_until(
            lambda: why_not(a, "failed: ValueError: of the future"), description="health names the error"
        )
    assert not (await a.worker.health()).ready
    monkeypatch.undo()
    await wait_until(lambda: ready(a), description="a tick succeeds")


async def why_not(manager: RunManager, reason: str) -> bool:
    return reason in " ".join((await manager.worker.health()).why_not)


async def ready(manager: RunManager) -> bool:
    return (await manager.worker.health()).ready


async def test_record_of_a_peers_run_keeps_unknown_values(team: list[RunManager]) -> None:
    a, b = team
    run, agent = await running(a, "t")
    await asyncio.to_thread(
        sql_of(a.store), "UPDATE runs SET on_disconnect = 'detach' WHERE run_id = ?", run.run_id
    )
    record = await b.get(run.run_id)
    assert record is not None
    assert record.on_disconnect == "detach"
    assert [listed.run_id for listed in await b.list_by_thread("t")] == [run.run_id]
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)
