"""`/coordinator/…` and `/metrics`: the routes of operators."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import RunManager
from coordinator.errors import StoreUnavailable
from coordinator.gateway.caller import Role
from coordinator.gateway.shared_counts import VARIABLE, shared_between_workers
from coordinator.settings import Settings
from stores.memory import MemoryStore
from stores.rows import WorkerRow
from tests.support.asgi import key_for, serving
from tests.support.waiting import wait_until

SLOW: dict[str, Any] = {"assistant_id": "agent", "input": {"sleep": 60}}
AGENT: dict[str, Any] = {"assistant_id": "agent", "input": {}}


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    async with serving() as (_, client):
        yield client


async def finished(client: httpx.AsyncClient) -> tuple[str, str]:
    answer = await client.post("/runs/wait", json={**AGENT, "on_completion": "keep"})
    _, _, thread_id, _, run_id = answer.headers["content-location"].split("/")
    return thread_id, run_id


async def metrics(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Returns the samples by name and label values, which are sorted by label name."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_live_and_ready_probes_succeed(client: httpx.AsyncClient) -> None:
    live, ready = [await client.get(f"/coordinator/health/{what}") for what in ("live", "ready")]
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_drain_responds_at_once_and_ends_readiness(client: httpx.AsyncClient) -> None:
    await client.post("/runs", json=SLOW)
    epoch = (await client.get("/coordinator/health")).json()["epoch"]
    another = await client.post("/coordinator/drain", json={"epoch": epoch + 1})
    assert another.status_code == 404
    assert (await client.get("/coordinator/health/ready")).status_code == 200

    answer = await client.post("/coordinator/drain", json={"epoch": epoch, "grace": 30})
    assert (answer.status_code, answer.json()) == (202, {"epoch": epoch, "grace": 30.0, "already": False})
    await wait_until(lambda: _not_ready(client), description="the worker is not ready")
    refused = await client.post("/runs", json=AGENT)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert (await client.get("/coordinator/health/live")).status_code == 200
    assert (await client.get("/coordinator/workers")).json()[0]["state"] == "draining"
    assert (await client.post("/coordinator/drain")).json()["already"] is True
    assert (await client.post("/runs/cancel", json={"status": "all"})).status_code == 204


async def test_drain_by_epoch_reaches_another_worker() -> None:
    store = MemoryStore(shared=True)
    one, other = (RunManager(store, settings=Settings(tick=0.05, grace=0)) for _ in range(2))
    async with serving(manager=one) as (_, client), serving(manager=other) as (_, elsewhere):
        await client.post("/runs", json=SLOW)
        await elsewhere.post("/runs", json=SLOW)
        epochs = [(await of.get("/coordinator/health")).json()["epoch"] for of in (client, elsewhere)]
        answer = await client.post("/coordinator/drain", json={"epoch": epochs[1]})
        assert answer.status_code == 202
        assert answer.json() == {"epoch": epochs[1], "grace": None, "already": False}
        await wait_until(lambda: other.worker.draining, description="the other worker drains")
        assert not one.worker.draining

        answer = await elsewhere.post("/coordinator/drain", json={"all": True, "grace": 0})
        answered = [{"epoch": epoch, "grace": 0, "already": epoch == epochs[1]} for epoch in epochs]
        assert (answer.status_code, answer.json()) == (202, answered)
        await wait_until(lambda: one.worker.draining, description="this worker drains as well")


async def _not_ready(client: httpx.AsyncClient) -> bool:
    answer = await client.get("/coordinator/health/ready")
    return answer.status_code == 503 and answer.json() == {"status": "not ready"}


@pytest.mark.parametrize(
    "body",
    [
        {"grace": -1},
        {"grace": 1e9},
        {"grace": "1"},
        {"epoch": True},
        {"epoch": 2**70},
        {"all": 1},
        {"all": True, "epoch": 1},
        {"else": 1},
        [],
        "x",
    ],
)
async def test_invalid_drain_request_drains_nothing(client: httpx.AsyncClient, body: object) -> None:
    assert (await client.post("/coordinator/drain", json=body)).status_code == 422
    assert (await client.get("/coordinator/health/ready")).status_code == 200


class FailingStore(MemoryStore):
    failing = False

    async def workers(self, *, alive_only: bool = True, counted: bool = True) -> list[WorkerRow]:
        if self.failing:
            raise StoreUnavailable("database of tenant-7 on db.internal is away")
        return await super().workers(alive_only=alive_only, counted=counted)


async def test_unavailable_store_ends_readiness_and_is_named_only_to_admins(tmp_path: Path) -> None:
    store = FailingStore()
    file = tmp_path / "keys"
    user, admin = key_for(file, Role.user, "alice"), key_for(file, Role.admin)
    async with serving(manager=RunManager(store), api_keys=file) as (_, client):
        store.failing = True
        ready = await client.get("/coordinator/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
        assert (await client.get("/coordinator/health/live")).status_code == 200
        answered = await client.get("/coordinator/health", headers=user)
        assert answered.json()["store_reachable"] is False
        assert "db.internal" not in answered.text
        assert "db.internal" in (await client.get("/coordinator/health", headers=admin)).text
        assert (await client.get("/metrics", headers=admin)).status_code == 503
        assert (await client.get("/coordinator/workers", headers=admin)).status_code == 503
        store.failing = False
        assert (await client.get("/coordinator/health/ready")).status_code == 200


async def test_a_worker_that_is_not_registered_is_not_ready() -> None:
    from coordinator.gateway import create_gateway

    transport = httpx.ASGITransport(create_gateway(RunManager()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/coordinator/health/ready")).status_code == 503


async def test_explain_returns_the_history_of_a_run(client: httpx.AsyncClient) -> None:
    thread_id, run_id = await finished(client)
    answered = (await client.get(f"/coordinator/runs/{run_id}/explain")).json()
    assert (answered["run_id"], answered["thread_id"], answered["status"], answered["phase"]) == (
        run_id,
        thread_id,
        "success",
        "done",
    )
    assert [step["what"] for step in answered["timeline"]] == ["admitted", "started", "finished"]
    assert all(step["at"].endswith("Z") for step in answered["timeline"])


async def test_a_receipt_has_the_four_times_of_a_cancel(client: httpx.AsyncClient) -> None:
    begun = await client.post("/runs", json={**SLOW, "on_completion": "keep"})
    run_id, thread_id = begun.json()["run_id"], begun.json()["thread_id"]
    before = (await client.get(f"/coordinator/runs/{run_id}/receipt")).json()
    await client.post(f"/threads/{thread_id}/runs/{run_id}/cancel?wait=1")
    after = (await client.get(f"/coordinator/runs/{run_id}/receipt")).json()
    times = ("requested_at", "delivered_at", "stopped_at", "settled_at")
    assert [before[time] for time in times] == [None] * 4
    assert sorted(after[time] for time in times) == [after[time] for time in times]
    assert (after["status"], after["phase"], after["cause"]) == ("interrupted", "done", "user")


async def test_metrics_count_runs_and_requests_by_template(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        thread_id, run_id = await finished(client)
        await client.get(f"/threads/{thread_id}/runs/{run_id}")
        await client.get(f"/nowhere/{run_id}")
    answered = await metrics(client)
    assert answered["coordinator_runs_admitted_total", "enqueue"] == 3
    assert answered["coordinator_runs_started_total",] == 3
    assert answered["coordinator_runs_settled_total", "success"] == 3
    assert (
        answered["coordinator_http_requests_total", "GET", "/threads/{thread_id}/runs/{run_id}", "200"] == 3
    )
    assert answered["coordinator_http_requests_total", "GET", "unmatched", "404"] == 3
    assert answered["coordinator_http_request_seconds_count", "POST", "/runs/wait"] == 3
    assert answered["coordinator_workers", "live"] == 1
    assert answered["coordinator_worker_ready",] == 1
    assert answered["coordinator_threads_held",] == 0


async def test_labels_contain_no_client_input(client: httpx.AsyncClient) -> None:
    """Time series are permanent, so clients must not be able to create them."""
    known: list[int] = []
    for begin in (0, 100):
        for number in range(begin, begin + 10):
            await client.get(f"/x{number}")
            await client.request(f"M{number}", f"/y{number}")
            await client.get(f"/threads/{number}", headers={"host": f"h{number}.example"})
            await client.get("/ok", headers={"x-request-id": f"r{number}"})
            await client.get("/metrics")
        known.append(len(await metrics(client)))
    assert known[0] == known[1]


async def test_one_process_exposes_metrics_of_all(tmp_path: Path) -> None:
    """Counters are summed, also those of an ended process; gauges are removed with their process."""
    program = """
import asyncio, sys
from tests.gateway.test_operations import finished, metrics
from tests.support.asgi import serving

async def main():
    async with serving() as (_, client):
        await finished(client)
        samples = await metrics(client)
        print(sum(value for name, value in samples.items() if name[0] == "coordinator_runs_settled_total"),
              sum(1 for name in samples if name[0] == "coordinator_worker_ready"))

asyncio.run(main())
"""
    with shared_between_workers():
        for number in (1, 2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, stdout=subprocess.PIPE, env=dict(os.environ)
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            assert out.split() == [b"%.1f" % number, b"1"]
    assert VARIABLE not in os.environ
