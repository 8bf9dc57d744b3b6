"""Multitask strategies of a new run on a busy thread, with both runs on any worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError

from tests.gateway.conftest import WITH_GRAPHS, Pair, pair_of
from tests.support.gateway_agents import GATES, UNWINDING
from tests.support.gateways import (
    create,
    demo,
    log_of,
    new_thread,
    start_running,
    status_of,
    thread_status,
    until_gone,
    until_status,
)
from tests.support.waiting import wait_until

pair = pytest.fixture(pair_of, name="pair", params=WITH_GRAPHS)


async def test_enqueue_is_first_in_first_out(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    first = await local.sdk.runs.create(thread, "gated", input={"gate": thread, "tag": "0"})
    await until_status(remote.sdk, thread, first["run_id"], "running")
    runs = [first["run_id"]]
    for number in range(1, 6):
        served = plain[number % 2]
        run = await served.sdk.runs.create(thread, "agent", input=demo(tag=str(number)))
        assert run["multitask_strategy"] == "enqueue"
        runs.append(run["run_id"])
    assert await thread_status(remote.sdk, thread) == "busy"
    assert await status_of(remote.sdk, thread, runs[-1]) == "pending"
    GATES[thread].set()
    results: list[Any] = [await remote.sdk.runs.join(thread, run) for run in runs]
    assert [len(result["log"]) for result in results] == [1, 2, 3, 4, 5, 6]
    assert await log_of(local.sdk, thread) == ["0:through", *(f"{number}:1" for number in range(1, 6))]
    assert await thread_status(remote.sdk, thread) == "idle"


class TestReject:
    async def test_reject_refuses_while_a_run_is_running(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await start_running(local.sdk, thread, sleep=60)
        with pytest.raises(ConflictError):
            await remote.sdk.runs.create(thread, "agent", input=demo(), multitask_strategy="reject")
        body = {"assistant_id": "agent", "multitask_strategy": "reject"}
        for verb in ("", "/stream", "/wait"):
            answer = await remote.raw.post(f"/threads/{thread}/runs{verb}", json=body)
            assert (answer.status_code, answer.json()["run_id"]) == (409, run)
        assert len(await remote.sdk.runs.list(thread)) == 1

    async def test_reject_refuses_until_the_cancelled_task_has_stopped(
        self, pair: Pair, thread: str, tmp_path: Path
    ) -> None:
        local, remote = pair
        run = await start_running(local.sdk, thread, "slow_to_stop", until=str(tmp_path / "stop"))
        await remote.sdk.runs.cancel(thread, run)
        with pytest.raises(ConflictError):
            await remote.sdk.runs.create(thread, "agent", input=demo(), multitask_strategy="reject")
        (tmp_path / "stop").touch()
        await until_status(remote.sdk, thread, run, "interrupted")
        await remote.sdk.runs.wait(thread, "agent", input=demo(), multitask_strategy="reject")

    async def test_reject_counts_a_delayed_run(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        await local.sdk.runs.create(thread, "agent", input=demo(), after_seconds=60)
        with pytest.raises(ConflictError):
            await remote.sdk.runs.create(thread, "agent", input=demo(), multitask_strategy="reject")

    async def test_reject_admits_one_of_many_concurrent_runs(self, pair: Pair, thread: str) -> None:
        body = {"assistant_id": "agent", "input": demo(sleep=60), "multitask_strategy": "reject"}
        answers = await asyncio.gather(
            *(served.raw.post(f"/threads/{thread}/runs", json=body) for served in pair for _ in range(10))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 19}

    async def test_reject_admits_after_the_run_has_ended(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        for served in (local, remote, local):
            await served.sdk.runs.wait(thread, "agent", input=demo(), multitask_strategy="reject")
        assert len(await log_of(remote.sdk, thread)) == 3


class TestInterrupt:
    async def test_interrupt_keeps_saved_values(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        old = await start_running(local.sdk, thread, sleep=0.05, steps=1000, tag="old")

        async def has_worked() -> bool:
            return len(await log_of(remote.sdk, thread)) >= 2

        await wait_until(has_worked, description="the run has done a step or two")
        result: Any = await remote.sdk.runs.wait(
            thread, "agent", input=demo(tag="new"), multitask_strategy="interrupt"
        )
        assert result["log"][:2] == ["old:1", "old:2"]
        assert [entry for entry in result["log"] if entry.startswith("new")] == ["new:1"]
        assert result["log"][-1] == "new:1"
        assert await status_of(local.sdk, thread, old) == "interrupted"
        assert await thread_status(remote.sdk, thread) == "idle"

    async def test_interrupt_replaces_queued_runs(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        old = [await start_running(local.sdk, thread, sleep=60)]
        old += [await create(local, thread, tag="no") for _ in range(2)]
        result: Any = await remote.sdk.runs.wait(
            thread, "agent", input=demo(tag="new"), multitask_strategy="interrupt"
        )
        assert result["log"] == ["new:1"]
        assert [await status_of(remote.sdk, thread, run) for run in old] == ["interrupted"] * 3

    async def test_interrupting_run_starts_after_the_old_task_has_stopped(self, plain: Pair) -> None:
        local, remote = plain
        thread = await new_thread(local.sdk)
        await start_running(local.sdk, thread, "slow_to_stop", tag="old")
        began = time.monotonic()
        new = await remote.sdk.runs.create(
            thread, "agent", input=demo(tag="new"), multitask_strategy="interrupt"
        )
        assert new["status"] == "pending"
        result: Any = await remote.sdk.runs.join(thread, new["run_id"])
        assert time.monotonic() - began >= UNWINDING
        assert result["log"] == ["old:begun", "new:1"]


class TestRollback:
    async def test_rollback_restores_the_thread(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        await local.sdk.runs.wait(thread, "agent", input=demo(tag="kept"))
        old = await start_running(local.sdk, thread, sleep=0.05, steps=1000, tag="old")

        async def has_worked() -> bool:
            return len(await log_of(remote.sdk, thread)) >= 3

        await wait_until(has_worked, description="the run has done a step or two")
        result: Any = await remote.sdk.runs.wait(
            thread, "agent", input=demo(tag="new"), multitask_strategy="rollback"
        )
        assert result["log"] == ["kept:1", "new:1"]
        await until_gone(remote.raw, f"/threads/{thread}/runs/{old}")
        assert [run["status"] for run in await remote.sdk.runs.list(thread)] == ["success", "success"]

    async def test_rollback_removes_queued_runs(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        old = [await start_running(local.sdk, thread, sleep=60)]
        old += [await create(local, thread, tag="no") for _ in range(2)]
        await remote.sdk.runs.wait(thread, "agent", input=demo(tag="new"), multitask_strategy="rollback")
        for run in old:
            await until_gone(local.raw, f"/threads/{thread}/runs/{run}")
        assert await log_of(remote.sdk, thread) == ["new:1"]


async def test_concurrent_replacements_leave_one_run_without_overlap(pair: Pair, thread: str) -> None:
    """The last replacement remains; the other runs are removed."""
    bodies = [
        {
            "assistant_id": "agent",
            "input": demo(sleep=0.01, steps=3, tag=str(number)),
            "multitask_strategy": ("interrupt", "rollback")[number % 2],
        }
        for number in range(10)
    ]
    answers = await asyncio.gather(
        *(pair[n % 2].raw.post(f"/threads/{thread}/runs", json=body) for n, body in enumerate(bodies))
    )
    assert {answer.status_code for answer in answers} == {200}

    async def is_over() -> bool:
        return await thread_status(pair[0].sdk, thread) != "busy"

    await wait_until(is_over, description="the thread is free", timeout=20)
    runs = await pair[1].sdk.runs.list(thread, limit=50)
    assert Counter(run["status"] for run in runs)["success"] == 1
    log = await log_of(pair[0].sdk, thread)
    tags = [tag for tag, _ in (entry.split(":") for entry in log)]
    assert log[-3:] == [f"{tags[-1]}:{step}" for step in (1, 2, 3)]
    assert tags == sorted(tags, key=tags.index)  # the steps of different runs do not interleave


async def test_unknown_strategy_is_refused_without_effect(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await start_running(local.sdk, thread, sleep=60)
    body = json.dumps({"assistant_id": "agent", "multitask_strategy": "banana"})
    headers = {"content-type": "application/json"}
    answer = await remote.raw.post(f"/threads/{thread}/runs", content=body, headers=headers)
    assert answer.status_code == 422
    assert await status_of(remote.sdk, thread, run) == "running"
