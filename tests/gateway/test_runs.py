"""Runs over HTTP: request validation and storage, lists, delays."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from coordinator import RunManager, RunRequest, Settings
from coordinator.assistants.function import FunctionAssistant
from coordinator.gateway.wire.documents import Run, Thread, ThreadWithTtl
from stores.spec import ROLES
from tests.gateway.conftest import Pair
from tests.graphlike import CheckpointStates, GraphLikeAssistant
from tests.support.asgi import serving
from tests.support.gateway_agents import AGENTS
from tests.support.gateways import Served, create, demo, new_thread, start_running, status_of


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    manager = RunManager(settings=Settings(tick=0.05, grace=0), assistants=AGENTS)
    async with serving(manager=manager) as (_, client):
        yield client


@pytest.fixture
async def path(http: httpx.AsyncClient) -> str:
    return f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}/runs"


EVERYTHING: dict[str, Any] = {
    "assistant_id": "echo",
    "input": {"any": ["thing", 1, None, 10**20, "\U0001f600"]},
    "metadata": {"k": {"deep": True}},
    "config": {
        "tags": ["t"],
        "recursion_limit": 5,
        "configurable": {"model": "m", "thread_id": "foreign", "__x": 1},
    },
    "context": {"user": "u", "__secret": 1},
    "checkpoint": {"thread_id": "foreign", "checkpoint_ns": ""},
    "stream_mode": ["values", "custom"],
    "stream_subgraphs": True,
    "stream_resumable": True,
    "feedback_keys": ["good"],
    "interrupt_before": ["node"],
    "interrupt_after": "*",
    "durability": "async",
    "checkpoint_during": True,
    "strict_resume": False,
    "langsmith_tracer": {"project_name": "p"},
    "multitask_strategy": "enqueue",
    "if_not_exists": "reject",
    "on_disconnect": "continue",
    "on_completion": "keep",
    "after_seconds": 0,
    "newer_key": {"of": "a newer client"},
}


class TestRequestBodies:
    async def test_request_is_kept_without_keys_reserved_for_the_server(
        self, http: httpx.AsyncClient, path: str
    ) -> None:
        result = (await http.post(f"{path}/wait", json=EVERYTHING)).json()
        kwargs = result["kwargs"]
        assert result["metadata"] == {"k": {"deep": True}}
        assert kwargs["input"] == EVERYTHING["input"]
        assert kwargs["config"] == {"tags": ["t"], "recursion_limit": 5, "configurable": {"model": "m"}}
        assert kwargs["context"] == {"user": "u"}
        assert kwargs["checkpoint"] == {"checkpoint_id": None, "checkpoint_ns": "", "checkpoint_map": None}
        for key in (
            *("stream_subgraphs", "stream_resumable", "interrupt_before", "interrupt_after", "durability"),
            *("checkpoint_during", "strict_resume", "langsmith_tracer"),
        ):
            assert kwargs[key] == EVERYTHING[key], key
        assert "newer_key" not in kwargs

    async def test_null_counts_as_absent(self, http: httpx.AsyncClient, path: str) -> None:
        body = {"assistant_id": "echo"} | {key: None for key in EVERYTHING if key != "assistant_id"}
        result = (await http.post(f"{path}/wait", json=body)).json()
        assert result == {"kwargs": {"input": None, "stream_mode": ["values"]}, "metadata": {}}

    @pytest.mark.parametrize(
        ("key", "values"),
        [
            ("assistant_id", [None, "", 1, "x" * 256, "a\u0000b", ["agent"]]),
            ("multitask_strategy", ["banana", 1, ["enqueue"]]),
            ("if_not_exists", ["maybe"]),
            ("on_disconnect", ["ignore", True]),
            ("on_completion", ["burn"]),
            ("durability", ["eventually"]),
            ("stream_mode", ["nonsense", ["values", "nonsense"], [1], {"a": 1}, 1]),
            ("stream_resumable", ["yes", 1]),
            ("stream_subgraphs", ["no"]),
            ("after_seconds", ["soon", "5", -1, 10**20, [1]]),
            ("metadata", ["text", [1], 1]),
            ("config", ["text", {"recursion_limit": 0}, {"recursion_limit": 10**30}, {"tags": "t"}]),
            ("context", ["text"]),
            ("command", ["go", {"goto": 1}, {"goto": {"input": 1}}]),
            ("checkpoint", ["c", {"checkpoint_id": 1}]),
            ("interrupt_before", ["all", [1], {"a": 1}]),
            ("feedback_keys", ["k", [1]]),
            ("langsmith_tracer", ["t"]),
            ("webhook", ["", 1]),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_invalid_field_is_named_and_no_run_is_started(
        self, http: httpx.AsyncClient, path: str, key: str, values: list[Any]
    ) -> None:
        for value in values:
            for verb in ("", "/stream", "/wait"):
                answer = await http.post(f"{path}{verb}", json={"assistant_id": "agent", key: value})
                assert answer.status_code == 422, (value, answer.text)
                assert key in answer.text, (value, answer.text)
        assert (await http.get(path)).json() == []

    async def test_input_is_validated_by_the_assistant_before_admission(
        self, http: httpx.AsyncClient, path: str
    ) -> None:
        for wrong in ({"sleep": "long"}, {"steps": -1}, "text", [1]):
            answer = await http.post(path, json={"assistant_id": "agent", "input": wrong})
            assert answer.status_code == 422
        assert (await http.get(path)).json() == []


@pytest.mark.parametrize("id_kind", ["name", "uuid"])
async def test_run_has_the_name_under_which_its_assistant_is_registered(tmp_path: Path, id_kind: str) -> None:
    """The registered name may differ from the assistant's own."""
    graph = GraphLikeAssistant(CheckpointStates(tmp_path / "checkpoints.db"), name="own")
    manager = RunManager(settings=Settings(grace=0), assistants={"registered": graph})
    async with serving(manager=manager) as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        assistant_id = "registered" if id_kind == "name" else manager.assistants.id_of("registered")
        answer = await client.post(
            f"/threads/{thread}/runs", json={"assistant_id": assistant_id, "input": demo(tag="a")}
        )
        assert answer.status_code == 200, answer.text
        run = answer.json()["run_id"]
        assert (await manager.runs.explain(run)).run.assistant_id == "registered"
        assert (await client.get(f"/threads/{thread}/runs/{run}/join")).json()["log"] == ["a:1"]


class TestLists:
    async def test_list_of_runs_has_pages_filters_and_selected_fields(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        good = await create(local, thread)
        await remote.sdk.runs.join(thread, good)
        bad = await create(local, thread, fail=True)
        await remote.sdk.runs.join(thread, bad)
        live = await start_running(local.sdk, thread, sleep=60)
        waits = await create(local, thread)
        for served in (local, remote):
            runs = await served.sdk.runs.list(thread)
            assert [run["run_id"] for run in runs] == [waits, live, bad, good]
            assert {str(run["kwargs"]) for run in runs} == {"{}"}
            for status, run in (("success", good), ("error", bad), ("running", live), ("pending", waits)):
                listed = await served.sdk.runs.list(thread, status=status, select=["run_id", "kwargs"])
                assert [one["run_id"] for one in listed] == [run]
                assert listed[0]["kwargs"]["input"]["tag"] == "run"
            page = await served.sdk.runs.list(thread, limit=2, offset=1, select=["run_id"])
            assert page == [{"run_id": live}, {"run_id": bad}]

    async def test_parameters_of_lists_are_validated(self, http: httpx.AsyncClient, path: str) -> None:
        for query in ("status=banana", "limit=0", "limit=10000", "limit=x", "offset=-1", "select=user_id"):
            assert (await http.get(f"{path}?{query}")).status_code == 422, query
        assert (await http.get(f"/threads/{uuid4()}/runs")).status_code == 404


class TestDelays:
    async def test_delayed_run_does_not_block_other_runs(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        delayed = await local.sdk.runs.create(thread, "agent", input=demo(tag="late"), after_seconds=3600)
        assert (await remote.sdk.runs.wait(thread, "agent", input=demo(tag="early")))["log"] == ["early:1"]
        assert await status_of(remote.sdk, thread, delayed["run_id"]) == "pending"

    async def test_delayed_run_starts_after_its_delay(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        began = time.monotonic()
        delayed = await local.sdk.runs.create(thread, "agent", input=demo(tag="late"), after_seconds=1)
        assert (await remote.sdk.runs.join(thread, delayed["run_id"]))["log"] == ["late:1"]
        assert time.monotonic() - began >= 0.95

    async def test_delayed_run_can_be_cancelled(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(thread, "agent", after_seconds=3600)
        assert await status_of(remote.sdk, thread, run["run_id"]) == "pending"
        assert (await remote.sdk.threads.get(thread))["status"] == "busy"
        await remote.sdk.runs.cancel(thread, run["run_id"], wait=True)
        assert await status_of(local.sdk, thread, run["run_id"]) == "interrupted"
        await local.sdk.runs.wait(thread, "agent", multitask_strategy="reject")


async def test_if_not_exists_creates_or_refuses_the_thread(pair: Pair) -> None:
    local, remote = pair
    thread = str(uuid4())
    body = {"assistant_id": "agent", "input": demo(tag="n")}
    for verb in ("", "/stream", "/wait"):
        assert (await local.raw.post(f"/threads/{thread}/runs{verb}", json=body)).status_code == 404
    assert (await remote.raw.get(f"/threads/{thread}")).status_code == 404
    result = await local.sdk.runs.wait(thread, "agent", input=demo(tag="n"), if_not_exists="create")
    assert result["log"] == ["n:1"]
    assert (await remote.sdk.threads.get(thread))["status"] == "idle"
    again = await remote.sdk.runs.wait(thread, "agent", input=demo(tag="m"), if_not_exists="create")
    assert again["log"] == ["n:1", "m:1"]


async def test_content_location_is_the_path_of_the_run(pair: Pair) -> None:
    local, remote = pair
    thread = await new_thread(local.sdk)
    answer = await local.raw.post(
        f"/threads/{thread}/runs", json={"assistant_id": "agent", "metadata": {"a": 1}}
    )
    made = answer.json()
    shown = (await remote.raw.get(answer.headers["content-location"])).json()
    requested = {"run_id", "created_at", *ROLES}
    assert {k: v for k, v in shown.items() if k in requested} == {
        k: v for k, v in made.items() if k in requested
    }
    assert (made["status"], made["multitask_strategy"]) == ("pending", "enqueue")


async def test_documents_have_the_fields_of_their_models(one: Served) -> None:
    thread = (await one.raw.post("/threads", json={"ttl": 60})).json()
    path = f"/threads/{thread['thread_id']}"
    created = (await one.raw.post(f"{path}/runs", json={"assistant_id": "agent", "input": demo()})).json()
    await one.raw.get(f"{path}/runs/{created['run_id']}/join")
    got = (await one.raw.get(f"{path}/runs/{created['run_id']}")).json()
    for run in (created, got, *(await one.raw.get(f"{path}/runs")).json()):
        assert list(run) == list(Run.model_fields)
        assert Run.model_validate(run).model_dump() == run
    with_ttl = (await one.raw.get(path, params={"include": "ttl"})).json()
    assert ThreadWithTtl.model_validate(with_ttl).model_dump() == with_ttl
    assert list(with_ttl) == list(ThreadWithTtl.model_fields)
    for each in (
        thread,
        (await one.raw.get(path)).json(),
        *(await one.raw.post("/threads/search", json={})).json(),
    ):
        assert list(each) == list(Thread.model_fields)
        assert Thread.model_validate(each).model_dump() == each


async def test_request_is_built_and_validated_once_until_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    validate, of = FunctionAssistant.validate, RunRequest.of

    def counted_validate(assistant: FunctionAssistant, request: RunRequest) -> None:
        calls.append("validate")
        validate(assistant, request)

    def counted_of(cls: type[RunRequest], kwargs: Any, metadata: Any) -> RunRequest:
        calls.append("of")
        return of(kwargs, metadata)

    monkeypatch.setattr(FunctionAssistant, "validate", counted_validate)
    monkeypatch.setattr(RunRequest, "of", classmethod(counted_of))
    async with serving(manager=RunManager(settings=Settings(grace=0))) as (_, client):
        for path in (f"/threads/{uuid4()}/runs/wait", "/runs/wait"):
            body = {"assistant_id": "agent", "input": demo(), "if_not_exists": "create"}
            assert (await client.post(path, json=body)).status_code == 200
            assert calls == ["validate", "of"], "`of` is the run that reads its row"
            calls.clear()
