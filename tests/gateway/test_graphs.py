"""Behaviour of graphs over HTTP: thread jobs that outlive their task, slow writes, interrupts,
checkpoints."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.gateway.conftest import Pair
from tests.support.gateways import log_of, new_thread, status_of, thread_status, until_status
from tests.support.waiting import wait_until


async def run_of(graphs: Pair, thread_id: str, **run_input: Any) -> str:
    """Starts a background run on the first gateway and waits until it runs."""
    local, remote = graphs
    run = (await local.sdk.runs.create(thread_id, "agent", input=run_input))["run_id"]
    await until_status(remote.sdk, thread_id, run, "running")
    return str(run)


async def history_of(graphs: Pair, thread: str) -> list[Any]:
    return list(await graphs[1].sdk.threads.get_history(thread, limit=100))


async def test_thread_is_free_when_the_thread_job_has_ended(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    run = await run_of(graphs, thread, steps=3, thread=0.6, tag="a")

    async def holds_still() -> bool:
        return bool(await history_of(graphs, thread))

    await wait_until(holds_still, description="the run is in its first step")
    await remote.sdk.runs.cancel(thread, run)
    assert (await remote.raw.get(f"/threads/{thread}/runs/{run}")).json()["cancelling"]
    began = time.monotonic()
    await remote.sdk.runs.cancel(thread, run, wait=True)
    waited = time.monotonic() - began
    held = await history_of(graphs, thread)
    await remote.sdk.runs.wait(thread, "agent", input={"tag": "b"}, multitask_strategy="reject")
    assert waited < 5
    assert (await history_of(graphs, thread))[-len(held) :] == held
    assert await log_of(local.sdk, thread) == (await local.sdk.threads.get_state(thread))["values"]["log"]


@pytest.mark.parametrize("wait", [True, False])
async def test_write_that_ends_after_the_cancel_is_rolled_back(graphs: Pair, wait: bool) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    await local.sdk.runs.wait(thread, "agent", input={"steps": 2, "tag": "kept"})
    before = await history_of(graphs, thread)
    run = await run_of(graphs, thread, steps=100, write=0.15, tag="a")

    async def has_written() -> bool:
        return len(await history_of(graphs, thread)) > len(before) + 1

    await wait_until(has_written, description="the run has written a step")
    await remote.sdk.runs.cancel(thread, run, action="rollback", wait=wait)

    async def is_idle() -> bool:
        return await thread_status(remote.sdk, thread) == "idle"

    await wait_until(is_idle, description="the thread is free")
    assert await history_of(graphs, thread) == before
    assert await log_of(remote.sdk, thread) == ["kept:1", "kept:2"]


async def test_interrupt_resume_and_completion(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    run_input = {"steps": 3, "pause_before": [2], "tag": "a"}
    paused = await local.sdk.runs.wait(thread, "agent", input=run_input)
    assert paused["log"] == ["a:1"]
    (question,) = paused["__interrupt__"]
    assert question["value"] == {"question": "go on with step 2?"}
    assert await thread_status(remote.sdk, thread) == "interrupted"
    state = await remote.sdk.threads.get_state(thread)
    assert (state["next"], state["interrupts"]) == (["step"], [question])
    assert state["tasks"][0]["interrupts"] == [question]
    done = await remote.sdk.runs.wait(thread, "agent", command={"resume": "yes"})
    assert done["log"] == ["a:1", "a:2:yes", "a:3"]
    assert await thread_status(local.sdk, thread) == "idle"


async def test_rolled_back_resume_restores_the_interrupt(graphs: Pair) -> None:
    """The resumed run has written after a checkpoint of the paused run."""
    local, remote = graphs
    thread = await new_thread(local.sdk)
    await local.sdk.runs.wait(
        thread, "agent", input={"steps": 50, "pause_before": [2], "sleep": 0.05, "tag": "a"}
    )
    before = await history_of(graphs, thread)
    run = (await local.sdk.runs.create(thread, "agent", command={"resume": "no"}))["run_id"]

    async def has_resumed() -> bool:
        return len(await log_of(remote.sdk, thread)) > 1

    await wait_until(has_resumed, description="the run has resumed")
    await remote.sdk.runs.cancel(thread, run, action="rollback", wait=True)
    assert await history_of(graphs, thread) == before
    assert await thread_status(remote.sdk, thread) == "interrupted"
    state = await remote.sdk.threads.get_state(thread)
    assert state["interrupts"][0]["value"] == {"question": "go on with step 2?"}


async def test_run_continues_from_a_breakpoint_without_input(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    first = await local.sdk.runs.wait(
        thread, "agent", input={"steps": 2, "tag": "a"}, interrupt_after=["step"]
    )
    assert first["log"] == ["a:1"]
    assert (await remote.sdk.threads.get_state(thread))["next"] == ["step"]
    (run,) = await remote.sdk.runs.list(thread)
    assert (run["status"], await thread_status(remote.sdk, thread)) == ("success", "interrupted")
    assert (await remote.sdk.runs.wait(thread, "agent"))["log"] == ["a:1", "a:2"]


async def test_run_continues_from_an_old_checkpoint_of_the_history(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    await local.sdk.runs.wait(thread, "agent", input={"steps": 3, "tag": "a"})
    states = await history_of(graphs, thread)
    assert [len(state["values"].get("log", [])) for state in states] == [3, 2, 1, 0]
    assert states[0]["parent_checkpoint"] == states[1]["checkpoint"]
    old = states[1]["checkpoint"]
    assert await remote.sdk.threads.get_state(thread, checkpoint=old) == states[1]
    assert await remote.sdk.threads.get_history(thread, before=old) == states[2:]
    assert await remote.sdk.threads.get_history(thread, limit=2) == states[:2]
    forked = await remote.sdk.runs.wait(thread, "agent", input={"tag": "b"}, checkpoint=old)
    assert forked["log"] == ["a:1", "a:2", "b:1"]


async def test_state_update_creates_a_checkpoint(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    await local.sdk.runs.wait(thread, "agent", input={"tag": "a"})
    changed = await remote.sdk.threads.update_state(thread, {"log": ["mine"]}, as_node="step")
    state = await local.sdk.threads.get_state(thread)
    assert (state["values"]["log"], state["checkpoint"]) == (["mine"], changed["checkpoint"])
    assert await log_of(local.sdk, thread) == ["mine"]
    copy = await local.sdk.threads.copy(thread)
    assert len(await history_of(graphs, copy["thread_id"])) == len(await history_of(graphs, thread))
    result = await remote.sdk.runs.wait(copy["thread_id"], "agent", input={"tag": "b"})
    assert result["log"] == ["mine", "b:1"]


async def test_updates_are_streamed_and_wrong_nodes_refused(graphs: Pair) -> None:
    local, remote = graphs
    thread = await new_thread(local.sdk)
    parts = [
        (part.event, part.data)
        async for part in local.sdk.runs.stream(
            thread, "agent", input={"steps": 2, "tag": "a"}, stream_mode=["updates"]
        )
    ]
    assert parts[1:] == [("updates", {"step": {"log": [f"a:{n}"]}}) for n in (1, 2)]
    for wrong in (
        {"interrupt_before": ["nowhere"]},
        {"command": {"goto": "nowhere"}},
        {"input": {"steps": "many"}},
    ):
        answer = await remote.raw.post(f"/threads/{thread}/runs", json={"assistant_id": "agent", **wrong})
        assert answer.status_code == 422, wrong
    assert len(await remote.sdk.runs.list(thread)) == 1
    missing = {"assistant_id": "agent", "input": {}, "checkpoint": {"checkpoint_id": "nope"}}
    run = (await remote.raw.post(f"/threads/{thread}/runs", json=missing)).json()["run_id"]
    assert "__error__" in await local.sdk.runs.join(thread, run)
    assert await status_of(local.sdk, thread, run) == "error"
