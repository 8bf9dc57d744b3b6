"""A thread job that outlives its run: the next run waits for it, and the health shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from coordinator import RunContext, Settings, open_coordinator
from coordinator.gateway import create_gateway
from tests.fundamentals.test_tracked_work import ThreadJob
from tests.support.gateways import Served, served
from tests.support.teams import QUICK
from tests.support.waiting import wait_until

JOB = ThreadJob()


async def blocks(ctx: RunContext) -> str:
    if not JOB.begun.is_set():
        return await asyncio.to_thread(JOB)
    return "after it"


@pytest.fixture
async def gateway() -> AsyncGenerator[Served]:
    slow: dict[str, Any] = {**QUICK, "force_after": 20.0}
    settings = Settings(store="memory://", **slow)
    async with open_coordinator(settings=settings, assistants={"agent": blocks}) as manager:
        manager.worker.install_executor()
        try:
            async with served(manager, create_gateway(manager)) as one:
                yield one
        finally:
            JOB.may_end.set()


async def test_thread_job_is_awaited_and_shown_in_health(gateway: Served) -> None:
    thread = (await gateway.sdk.threads.create())["thread_id"]
    first = await gateway.sdk.runs.create(thread, "agent")
    await wait_until(JOB.begun.is_set, description="the thread has begun")
    await gateway.sdk.runs.cancel(thread, first["run_id"], wait=False)
    second = await gateway.sdk.runs.create(thread, "agent")

    async def outlives() -> bool:
        health = (await gateway.raw.get("/coordinator/health")).json()
        return health["outliving"] == [first["run_id"]] and health["thread_jobs"] >= 1

    await wait_until(outlives, description="the job is counted")
    metrics = (await gateway.raw.get("/metrics")).text
    assert "coordinator_worker_outliving_thread_jobs 1.0" in metrics
    shown = await gateway.sdk.runs.get(thread, first["run_id"])
    assert (shown["status"], shown["cancelling"]) == ("running", True)
    assert (await gateway.sdk.runs.get(thread, second["run_id"]))["status"] == "pending"
    JOB.may_end.set()
    await gateway.sdk.runs.join(thread, second["run_id"])
    assert (await gateway.sdk.runs.get(thread, first["run_id"]))["status"] == "interrupted"
    assert (await gateway.sdk.runs.get(thread, second["run_id"]))["status"] == "success"
