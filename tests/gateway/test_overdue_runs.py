"""A run whose task ignores its cancel is shown to operators until the task has stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from coordinator import RunContext, Settings, open_coordinator
from coordinator.gateway import create_gateway
from tests.support.gateways import served
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


async def test_overdue_run_is_in_health_and_metrics() -> None:
    begun, may_stop = asyncio.Event(), asyncio.Event()

    async def deaf(ctx: RunContext) -> None:
        begun.set()
        while not may_stop.is_set():
            with suppress(asyncio.CancelledError):
                await may_stop.wait()

    settings = Settings.model_validate({"store": "memory://", **QUICK, "force_after": 0.2, "max_running": 1})
    async with (
        open_coordinator(settings=settings, assistants={"deaf": deaf}) as manager,
        served(manager, create_gateway(manager)) as gateway,
    ):
        thread = (await gateway.sdk.threads.create())["thread_id"]
        run = await gateway.sdk.runs.create(thread, "deaf")
        await asyncio.wait_for(begun.wait(), 10)
        await gateway.sdk.runs.cancel(thread, run["run_id"], wait=True)
        health = (await gateway.raw.get("/coordinator/health")).json()
        [shown] = health["overdue"]
        assert run["run_id"] in shown
        assert "assistant 'deaf'" in shown
        assert "coordinator_worker_overdue_runs 1.0" in (await gateway.raw.get("/metrics")).text
        may_stop.set()

        async def is_over() -> bool:
            metrics = (await gateway.raw.get("/metrics")).text
            return "coordinator_worker_overdue_runs 0.0" in metrics

        await wait_until(is_over, description="the task has stopped")
        assert (await gateway.raw.get("/coordinator/health")).json()["overdue"] == []
