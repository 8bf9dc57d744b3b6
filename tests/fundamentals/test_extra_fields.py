"""`extra`: fields that a gateway keeps with its runs, from admission to long after their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator import InvalidArgument, MemoryRunStore, RunManager, RunNotFound
from tests.support.agents import launched, quick, running
from tests.support.runs import managing
from tests.support.teams import on_every_store
from tests.support.waiting import wait_until


@on_every_store
async def test_fields_are_shown_by_get_and_lists_of_every_worker(team: list[RunManager]) -> None:
    a, b = team
    record = await a.create_or_reject("t", extra={"stop_reason": None, "owner": "é"})
    assert record.extra == {"stop_reason": None, "owner": "é"}
    async with a.running(record) as ctx:
        ctx.end("success", extra={"stop_reason": "end_turn", "n": 1})
    expected = {"stop_reason": "end_turn", "owner": "é", "n": 1}
    assert record.extra == expected
    for manager in team:
        shown = await manager.get(record.run_id)
        assert shown is not None
        assert shown.extra == expected
        assert [each.extra for each in await manager.list_by_thread("t")] == [expected]
    assert (await b.runs.get(record.run_id)).extra == expected


@on_every_store
async def test_completion_and_any_worker_merge_key_by_key_after_the_end(team: list[RunManager]) -> None:
    a, b = team
    record = await a.create_or_reject("t", extra={"a": 1})
    a.launch(record, quick)
    await a.wait(record.run_id)
    await a.update_run_completion(record.run_id, status="success", total_tokens=3, extra={"b": {"x": 1}})
    assert await b.runs.update_extra(record.run_id, {"c": None}) == {"a": 1, "b": {"x": 1}, "c": None}
    row = await b.runs.get(record.run_id)
    assert (row.extra, row.counters["total_tokens"]) == ({"a": 1, "b": {"x": 1}, "c": None}, 3)
    assert await a.runs.update_extra(record.run_id, {"d": 1}) == record.extra


@pytest.mark.assistants(agent=quick)
async def test_fields_survive_the_takeover_of_a_queued_run(team: list[RunManager]) -> None:
    a, b = team
    _, first = await running(b, "t")
    record = await a.create_or_reject("t", "agent", multitask_strategy="enqueue", extra={"a": 1})
    a.launch(record)
    await a.worker.drain(grace=0)
    first.may_end.set()
    await wait_until(lambda: _settled(b, record.run_id), description="the other worker has executed it")
    await b.wait(record.run_id, timeout=20)  # its memory follows its row
    taken = await b.get(record.run_id)
    assert taken is not None
    assert (taken.extra, taken.status) == ({"a": 1}, "success")


async def _settled(manager: RunManager, run_id: str) -> bool:
    return (await manager.runs.get(run_id)).settled


async def test_requests_that_differ_in_their_fields_are_the_same_request(manager: RunManager) -> None:
    first = await manager.create_or_reject("t", idempotency_key="k", extra={"at": 1})
    second = await manager.create_or_reject("t", idempotency_key="k", extra={"at": 2})
    assert (second.run_id, second.extra) == (first.run_id, {"at": 1})


LARGE: dict[str, Any] = {"a": "x" * 16_384}


async def test_fields_are_bounded(manager: RunManager) -> None:
    with pytest.raises(InvalidArgument, match="16384"):
        await manager.create_or_reject("t", extra=LARGE)
    record = await manager.create_or_reject("t", extra={"a": "x" * 16_000})
    with pytest.raises(InvalidArgument, match="16384"):
        await manager.update_run_completion(record.run_id, extra={"b": "x" * 1000})
    with pytest.raises(InvalidArgument, match="16384"):
        await manager.runs.update_extra(record.run_id, {"b": "x" * 1000})
    async with manager.running(record) as ctx:
        with pytest.raises(InvalidArgument, match="16384"):
            ctx.end("success", extra={"b": "x" * 1000})
    assert (await manager.runs.get(record.run_id)).extra == {"a": "x" * 16_000}


async def test_fields_of_a_foreign_or_unknown_run_are_not_updated(manager: RunManager) -> None:
    record = await manager.create_or_reject("t", user_id="ann")
    for run_id in (record.run_id, "unknown"):
        with pytest.raises(RunNotFound):
            await manager.runs.update_extra(run_id, {"a": 1}, user_id="bob")
    await manager.update_run_completion("unknown", extra={"a": 1})  # best effort: logged
    assert record.extra == {}


async def test_fields_of_a_lost_run_are_not_written(team: list[RunManager]) -> None:
    a, b = team
    record, agent = await launched(a, "t")
    async with asyncio.timeout(10):
        await agent.started.wait()
    await b.store.declare_dead(a.worker.epoch, by=b.worker.epoch, actor="test")
    await b.reconcile_orphaned_inflight_runs(error="gone")
    await wait_until(record.abort_event.is_set, description="the worker has lost the run")
    await a.update_run_completion(record.run_id, extra={"late": True})
    assert (await b.runs.get(record.run_id)).extra == {}


async def test_record_store_of_a_gateway_keeps_its_signatures_and_the_record_its_fields() -> None:
    async with managing(MemoryRunStore()) as manager:
        record = await manager.create_or_reject("t", extra={"a": 1})
        await manager.update_run_completion(record.run_id, extra={"b": 2})
        assert record.extra == {"a": 1, "b": 2}
        assert (await manager.list_by_thread("t"))[0].extra == {"a": 1, "b": 2}
