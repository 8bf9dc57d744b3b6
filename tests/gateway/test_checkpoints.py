"""History, edit and regenerate over HTTP, as chat front ends use them."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph_sdk.errors import UnprocessableEntityError

from tests.gateway.conftest import Pair
from tests.support.gateways import demo, new_thread


async def done(sdk: Any, thread: str, tag: str | None, **more: Any) -> Any:
    run_input = None if tag is None else demo(tag=tag)
    return (await sdk.runs.wait(thread, "agent", input=run_input, **more))["log"]


async def test_runs_from_checkpoints_form_a_tree(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    assert await done(local.sdk, thread, "a") == ["a:1"]
    assert await done(remote.sdk, thread, "b") == ["a:1", "b:1"]
    history = await remote.sdk.threads.get_history(thread, limit=10)
    assert [state["values"].get("log") for state in history] == [["a:1", "b:1"], ["a:1"], ["a:1"], None]
    assert [state["next"] for state in history] == [[], ["__start__"]] * 2
    ids = [state["checkpoint"]["checkpoint_id"] for state in history]
    parents = [
        state["parent_checkpoint"] and state["parent_checkpoint"]["checkpoint_id"] for state in history
    ]
    assert parents == [*ids[1:], None]
    assert await local.sdk.threads.get_state(thread) == history[0]
    for state in history:
        assert await local.sdk.threads.get_state(thread, checkpoint=state["checkpoint"]) == state
        by_id = await local.raw.get(f"/threads/{thread}/state/{state['checkpoint']['checkpoint_id']}")
        assert by_id.json() == state
    older = await local.sdk.threads.get_history(thread, before=history[1]["checkpoint"])
    assert older == history[2:]

    edited = await done(remote.sdk, thread, "c", checkpoint=history[0]["parent_checkpoint"])
    assert edited == ["a:1", "c:1"]
    again = await done(local.sdk, thread, None, checkpoint=history[0]["parent_checkpoint"])
    assert again == ["a:1", "b:1"], "the same run is repeated"
    head = await local.sdk.threads.get_state(thread)
    assert head["parent_checkpoint"] == history[0]["parent_checkpoint"]
    by_id = await done(remote.sdk, thread, "d", checkpoint_id=ids[2])
    assert by_id == ["a:1", "d:1"]

    changed = await remote.sdk.threads.update_state(
        thread, {"title": "x"}, checkpoint=history[2]["checkpoint"]
    )
    head = await local.sdk.threads.get_state(thread)
    assert head["checkpoint"]["checkpoint_id"] == changed["checkpoint"]["checkpoint_id"]
    assert (head["values"]["log"], head["values"]["title"]) == (["a:1"], "x")
    assert head["parent_checkpoint"]["checkpoint_id"] == ids[2]


async def test_unknown_checkpoint_is_refused(plain: Pair) -> None:
    local, remote = plain
    thread, other = await new_thread(local.sdk), await new_thread(local.sdk)
    await done(local.sdk, other, "x")
    foreign = (await local.sdk.threads.get_state(other))["checkpoint"]
    for checkpoint in (foreign, {"checkpoint_id": "unheard of", "checkpoint_ns": ""}):
        with pytest.raises(UnprocessableEntityError, match="checkpoint"):
            await remote.sdk.runs.create(thread, "agent", input=demo(), checkpoint=checkpoint)
        run_input = {"assistant_id": "agent", "checkpoint": checkpoint}
        assert (await remote.raw.post("/runs", json=run_input)).status_code == 422
    assert await local.sdk.runs.list(thread) == []


async def test_history_before_a_checkpoint_in_each_form_of_clients(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    await done(local.sdk, thread, "a")
    history = await local.sdk.threads.get_history(thread)
    checkpoint = history[0]["checkpoint"]
    forms = (checkpoint, checkpoint["checkpoint_id"], {"configurable": {**checkpoint, "of_mine": 1}})
    for before in forms:
        answer = await remote.raw.post(f"/threads/{thread}/history", json={"before": before})
        assert (answer.status_code, answer.json()) == (200, history[1:]), before
    mistakes: list[Any] = [{"configurable": {"checkpoint_id": 1}}, {"configurable": 1, "checkpoint_id": 1}]
    for mistake in mistakes:
        answer = await remote.raw.post(f"/threads/{thread}/history", json={"before": mistake})
        assert answer.status_code == 422, mistake


async def test_history_before_an_unknown_checkpoint_is_refused(plain: Pair) -> None:
    local, remote = plain
    thread, other = await new_thread(local.sdk), await new_thread(local.sdk)
    await done(local.sdk, thread, "a")
    await done(local.sdk, other, "x")
    foreign = (await local.sdk.threads.get_state(other))["checkpoint"]
    unknown: list[Any] = [foreign, foreign["checkpoint_id"], "unheard of", {"configurable": {}}]
    for before in unknown:
        answer = await remote.raw.post(f"/threads/{thread}/history", json={"before": before})
        assert answer.status_code == 422, before
        assert "before: the thread has no such checkpoint" in answer.json()["detail"]
    oldest = (await local.sdk.threads.get_history(thread))[-1]["checkpoint"]
    assert await local.sdk.threads.get_history(thread, before=oldest) == []


async def test_checkpoint_in_config_is_used(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    await done(local.sdk, thread, "a")
    first = (await local.sdk.threads.get_state(thread))["checkpoint"]
    await done(local.sdk, thread, "b")
    second = (await local.sdk.threads.get_state(thread))["checkpoint"]
    assert await done(remote.sdk, thread, "c", config={"configurable": first}) == ["a:1", "c:1"]
    both = await done(remote.sdk, thread, "d", config={"configurable": first}, checkpoint=second)
    assert both == ["a:1", "b:1", "d:1"]
    for unknown in ("unheard of", 1, ""):
        run_input = {"assistant_id": "agent", "config": {"configurable": {"checkpoint_id": unknown}}}
        for path in (f"/threads/{thread}/runs", "/runs"):
            answer = await remote.raw.post(path, json=run_input)
            assert answer.status_code == 422, (path, unknown)
