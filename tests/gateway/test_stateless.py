"""Stateless runs: runs without a thread of the client."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.conftest import Pair
from tests.support.gateways import Served, demo, new_thread, status_of, until_gone
from tests.support.sse import all_events, events


def path_of(run: Any) -> str:
    return f"/threads/{run['thread_id']}/runs/{run['run_id']}"


async def test_stateless_run_is_created(pair: Pair) -> None:
    local, remote = pair
    seen: list[Any] = []
    run = await local.sdk.runs.create(None, "agent", input=demo(tag="a"), on_run_created=seen.append)
    assert run["status"] == "pending"
    assert seen == [{"run_id": run["run_id"], "thread_id": None}]
    assert (await remote.raw.get(f"/runs/{run['run_id']}/join")).json()["log"] == ["a:1"]


async def test_stateless_run_is_awaited(pair: Pair) -> None:
    local, remote = pair
    answer = await local.raw.post("/runs/wait", json={"assistant_id": "agent", "input": demo(tag="a")})
    assert answer.json()["log"] == ["a:1"]
    content, location = answer.headers["content-location"], answer.headers["location"]
    assert content.startswith("/threads/")
    assert location == f"{content}/join"
    assert (await remote.raw.get(location)).json() == answer.json()


async def test_stateless_stream_resumes_at_its_location(pair: Pair) -> None:
    local, remote = pair
    body = {"assistant_id": "agent", "input": demo(steps=2), "stream_resumable": True}
    async with local.raw.stream("POST", "/runs/stream", json=body) as response:
        content, location = response.headers["content-location"], response.headers["location"]
        sent = [event async for event in events(response)]
    run = sent[0].data["run_id"]
    assert content == f"/runs/{run}"
    assert location.endswith(f"/runs/{run}/stream")
    for path in (location, f"{content}/stream"):
        assert await all_events(remote.raw, "GET", path, headers={"Last-Event-ID": "-1"}) == sent


async def test_sdk_streams_and_awaits_stateless_runs(one: Served) -> None:
    parts = [part.event async for part in one.sdk.runs.stream(None, "agent", input=demo(steps=2))]
    assert parts == ["metadata", "values", "values"]
    assert (await one.sdk.runs.wait(None, "agent", input=demo(tag="w")))["log"] == ["w:1"]


@pytest.mark.parametrize("on_completion", ["delete", None])
async def test_thread_of_a_stateless_run_is_removed(pair: Pair, on_completion: Any) -> None:
    local, remote = pair
    run = await local.sdk.runs.create(None, "agent", input=demo(sleep=0.1), on_completion=on_completion)
    assert (await remote.sdk.threads.get(run["thread_id"]))["status"] == "busy"
    await remote.sdk.runs.join(run["thread_id"], run["run_id"])
    assert (await remote.raw.get(f"/threads/{run['thread_id']}")).status_code == 404
    assert (await local.raw.get(f"/threads/{run['thread_id']}/runs")).status_code in (200, 404)
    await until_gone(remote.raw, path_of(run))
    await until_gone(local.raw, f"/threads/{run['thread_id']}/state")


async def test_thread_of_a_stateless_run_is_kept_on_request(pair: Pair) -> None:
    local, remote = pair
    run = await local.sdk.runs.create(None, "agent", input=demo(), on_completion="keep")
    await remote.sdk.runs.join(run["thread_id"], run["run_id"])
    assert (await remote.sdk.threads.get(run["thread_id"]))["status"] == "idle"
    assert await status_of(remote.sdk, run["thread_id"], run["run_id"]) == "success"
    assert [t["thread_id"] for t in await remote.sdk.threads.search()] == [run["thread_id"]]


async def test_thread_of_a_stateless_run_is_not_listed(pair: Pair) -> None:
    local, remote = pair
    run = await local.sdk.runs.create(None, "agent", input=demo(sleep=60))
    assert await remote.sdk.threads.search() == []
    assert await remote.sdk.threads.count() == 0
    await remote.sdk.runs.cancel(run["thread_id"], run["run_id"], wait=True)


async def test_stateless_runs_do_not_block_each_other(one: Served) -> None:
    runs = [await one.sdk.runs.create(None, "agent", input=demo(sleep=60)) for _ in range(3)]
    assert len({run["thread_id"] for run in runs}) == 3
    answer = await one.sdk.runs.wait(None, "agent", input=demo(tag="x"))
    assert answer["log"] == ["x:1"]


class TestBatch:
    async def test_batch_starts_a_run_for_each_body(self, pair: Pair) -> None:
        local, remote = pair
        body = [{"assistant_id": "agent", "input": demo(tag=tag)} for tag in "abc"]
        runs = await local.sdk.runs.create_batch(body)
        assert len({run["thread_id"] for run in runs}) == 3
        for run, tag in zip(runs, "abc", strict=True):
            assert (await remote.sdk.runs.join(run["thread_id"], run["run_id"]))["log"] == [f"{tag}:1"]

    async def test_batch_with_an_invalid_run_starts_nothing(self, one: Served) -> None:
        body = [{"assistant_id": "agent"}, {"assistant_id": "unknown"}]
        assert (await one.raw.post("/runs/batch", json=body)).status_code == 422
        assert await one.manager.runs.recent() == []

    async def test_refused_run_rolls_back_its_batch(self, one: Served) -> None:
        """The store refuses the second run: the first is rolled back."""
        thread = await new_thread(one.sdk)
        body = [
            {"assistant_id": "agent", "input": demo(sleep=60), "thread_id": thread},
            {"assistant_id": "agent", "thread_id": str(uuid4())},
        ]
        assert (await one.raw.post("/runs/batch", json=body)).status_code == 404
        assert await one.sdk.runs.list(thread) == []
        await one.sdk.runs.wait(thread, "agent", input=demo(), multitask_strategy="reject")

    async def test_batch_size_is_bounded(self, one: Served) -> None:
        for body in ([], [{"assistant_id": "agent"}] * 1001, {"assistant_id": "agent"}):
            assert (await one.raw.post("/runs/batch", json=body)).status_code == 422


class TestIdempotency:
    async def test_repeated_idempotency_key_returns_the_same_run(self, pair: Pair) -> None:
        local, remote = pair
        headers = {"Idempotency-Key": "k1"}
        body = {"assistant_id": "agent", "input": demo(tag="a"), "on_completion": "keep"}
        answers = [
            await served.raw.post("/runs", json=body, headers=headers) for served in (local, remote, local)
        ]
        assert len({answer.json()["run_id"] for answer in answers}) == 1
        run = answers[0].json()
        assert (await remote.sdk.runs.join(run["thread_id"], run["run_id"]))["log"] == ["a:1"]
        other = await remote.raw.post("/runs", json=body | {"input": demo(tag="b")}, headers=headers)
        assert other.status_code == 409

    async def test_idempotency_key_applies_to_threads_and_waits(self, pair: Pair) -> None:
        local, remote = pair
        thread = await new_thread(local.sdk)
        body = {"assistant_id": "agent", "input": demo(sleep=0.1, tag="a")}
        for served in (local, remote):
            answer = await served.raw.post(
                f"/threads/{thread}/runs/wait", json=body, headers={"Idempotency-Key": "k1"}
            )
            assert answer.json()["log"] == ["a:1"]
        assert len(await remote.sdk.runs.list(thread)) == 1


@pytest.mark.parametrize("answer", [1, None])
async def test_answer_needs_the_thread_of_the_paused_run(pair: Pair, answer: Any) -> None:
    local, _ = pair
    body = {"assistant_id": "asker", "input": {}, "command": {"resume": answer}}
    for path, sent in (
        ("/runs", body),
        ("/runs/wait", body),
        ("/runs/stream", body),
        ("/runs/batch", [body]),
    ):
        refused = await local.raw.post(path, json=sent)
        assert refused.status_code == 422, path
        assert "send it to the thread of the paused run" in refused.json()["detail"]
