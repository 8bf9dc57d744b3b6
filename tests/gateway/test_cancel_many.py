"""`POST /runs/cancel` with filters: counts, dry runs, batches."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.gateway import bulk
from tests.gateway.conftest import Pair
from tests.support.gateways import Served, demo, new_thread, start_running, status_of, until_status

NOTHING: dict[str, Any] = {
    "dry_run": False,
    "matched": 0,
    "cancelled": 0,
    "ended": 0,
    "left": 0,
    "run_ids": [],
}


async def teams(served: Served) -> dict[str, tuple[str, list[str]]]:
    """Creates a thread for each team with one running and two queued runs."""
    made: dict[str, tuple[str, list[str]]] = {}
    for team in ("red", "blue"):
        thread = await new_thread(served.sdk)
        runs = [await start_running(served.sdk, thread, sleep=60)]
        for number in range(2):
            run = await served.sdk.runs.create(
                thread, "agent", input=demo(tag=str(number)), metadata={"team": team, "n": number}
            )
            runs.append(run["run_id"])
        made[team] = (thread, runs)
    return made


async def counts(served: Served, **body: Any) -> dict[str, Any]:
    answer = await served.raw.post("/runs/cancel", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_cancel_by_metadata_after_a_dry_run(plain: Pair) -> None:
    local, remote = plain
    made = await teams(local)
    _, (running, *waiting) = made["red"]
    filters: dict[str, Any] = {"metadata": {"team": "red"}}
    seen = await counts(remote, **filters, dry_run=True)
    assert seen == {**NOTHING, "dry_run": True, "matched": 2, "left": 2, "run_ids": sorted(waiting)}
    assert (await counts(remote, **filters, status="running"))["matched"] == 0
    done = await counts(remote, **filters)
    assert done == {**NOTHING, "matched": 2, "cancelled": 2, "run_ids": sorted(waiting)}
    for run in waiting:
        assert await status_of(remote.sdk, made["red"][0], run) == "interrupted"
    assert await status_of(remote.sdk, made["red"][0], running) == "running"
    assert await counts(remote, **filters) == NOTHING, "the runs are cancelled already"
    assert (await counts(remote, status="all", dry_run=True))["matched"] == 4


async def test_cancel_by_thread_status_assistant_and_age(plain: Pair) -> None:
    local, remote = plain
    made = await teams(local)
    (red, reds), (blue, blues) = made["red"], made["blue"]
    assert (await counts(remote, thread_id=red, dry_run=True))["matched"] == 3
    assert (await counts(remote, thread_id=red, status="pending", dry_run=True))["run_ids"] == sorted(
        reds[1:]
    )
    agent = local.manager.assistants.id_of("agent")
    for name, matched in (("agent", 6), (agent, 6), ("other", 0)):
        assert (await counts(remote, assistant_id=name, dry_run=True))["matched"] == matched
    assert (await counts(remote, older_than=3600, dry_run=True))["matched"] == 0
    assert (await counts(remote, older_than=0.001, dry_run=True))["matched"] == 6
    seen = await counts(remote, thread_id=blue, run_ids=blues[:2], dry_run=True)
    assert (seen["matched"], seen["run_ids"]) == (2, sorted(blues[:2]))
    done = await counts(remote, thread_id=blue)
    assert done["cancelled"] == 3
    for run in blues:
        await until_status(remote.sdk, blue, run, "interrupted")
    assert await status_of(remote.sdk, red, reds[0]) == "running"


async def test_each_cancelled_run_has_its_own_history(one: Served) -> None:
    thread, runs = (await teams(one))["red"]
    await counts(one, thread_id=thread, status="pending")
    alone = runs[0]
    await one.sdk.runs.cancel(thread, alone, wait=True)
    for run in runs:
        explanation = (await one.raw.get(f"/coordinator/runs/{run}/explain")).json()
        decided = next(step for step in explanation["timeline"] if step["to_status"] == "interrupted")
        assert (decided["cause"], decided["actor"], decided["detail"]) == ("user", None, None)


async def test_repeated_request_cancels_the_remaining_runs(
    one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_CANCELLED", 1)
    thread, _ = (await teams(one))["red"]
    first = await counts(one, thread_id=thread, status="pending")
    assert (first["matched"], first["cancelled"], first["left"]) == (2, 1, 1)
    second = await counts(one, thread_id=thread, status="pending")
    assert (second["matched"], second["cancelled"], second["left"]) == (1, 1, 0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dry_run": True},
        {"metadata": {}},
        {"run_ids": ["6f0f5b5e-8f3c-4bb7-9d3c-1a2b3c4d5e6f"]},
        {"status": "all", "older_than": 0},
        {"status": "all", "older_than": "1h"},
        {"status": "success"},
        {
            "thread_id": "6f0f5b5e-8f3c-4bb7-9d3c-1a2b3c4d5e6f",
            "run_ids": ["6f0f5b5e-8f3c-4bb7-9d3c-1a2b3c4d5e6f"],
            "metadata": {"a": 1},
        },
    ],
    ids=str,
)
async def test_request_without_or_with_conflicting_filters_is_refused(
    one: Served, body: dict[str, Any]
) -> None:
    thread = await new_thread(one.sdk)
    run = await start_running(one.sdk, thread, sleep=60)
    assert (await one.raw.post("/runs/cancel", json=body)).status_code == 422
    assert await status_of(one.sdk, thread, run) == "running"


async def test_clients_of_the_runs_api_get_no_counts(one: Served) -> None:
    thread, runs = (await teams(one))["red"]
    assert (await one.raw.post("/runs/cancel", json={"status": "pending"})).status_code == 204
    named = {"thread_id": thread, "run_ids": runs[:1]}
    assert (await one.raw.post("/runs/cancel", json=named)).status_code == 204
    assert (await one.raw.post("/runs/cancel", json={"status": "pending"})).status_code == 404
