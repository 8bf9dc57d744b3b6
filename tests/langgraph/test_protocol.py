"""The Agent Streaming Protocol over HTTP, on three workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from coordinator import Interrupt, Outcome, RunContext, assistant
from coordinator.servers.valkey import ValkeyServer
from tests.langgraph import graphs
from tests.langgraph.client_team import KINDS, team_of
from tests.langgraph.protocol_events import ALL, Ends, Event, command, events, is_end, phase, seqs, until
from tests.support.gateways import Served
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

Team = list[Served]
INPUT: dict[str, Any] = {"log": []}


@assistant(name="function")
async def function(ctx: RunContext) -> Any:
    """Emits as its input states."""
    if ctx.request.command is not None:
        return {"resumed": ctx.request.command.resume}
    for mode, data in ctx.input.get("emits", ()):
        await ctx.emit(mode, data)
    if ctx.input.get("fails"):
        raise ValueError("as requested")
    if ctx.input.get("hangs"):
        await asyncio.Event().wait()
    if questions := ctx.input.get("questions"):
        requests = tuple(Interrupt(one, f"id of {one}") for one in questions)
        return Outcome(values={"questions": questions}, paused=True, interrupts=requests)
    return {"done": True}


@assistant(name="counter")
async def counter(ctx: RunContext) -> Any:
    values: dict[str, int] = ctx.values or {}
    return {"count": values.get("count", 0) + 1}


def made() -> dict[str, Any]:
    return {
        "chain": graphs.chain("a", "b"),
        "asking": graphs.asking("one"),
        "nested": graphs.nested(questions=True),
        "chat": graphs.chat(),
        "failing": graphs.failing(),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def team(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_valkey: ValkeyServer,
    shared_postgres: Database,
) -> AsyncGenerator[Team]:
    folder = tmp_path_factory.mktemp("runs")
    async with team_of(
        request.param, folder, shared_valkey, shared_postgres, made, function=function, counter=counter
    ) as team:
        yield team


async def started(served: Served, thread: str, assistant: str, given: Any, **params: Any) -> str:
    answer = await command(served.raw, thread, "run.start", assistant_id=assistant, input=given, **params)
    assert answer["type"] == "success", answer
    return answer["result"]["run_id"]


async def test_run_is_replayed_from_each_place_on_another_worker(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    await started(a, thread, "chat", {"messages": [{"type": "human", "content": "hi"}]})
    whole = await until(b.raw, thread, is_end)
    assert phase(whole[0]) == "running"
    assert seqs(whole) == sorted({*seqs(whole)}), "places grow"
    assert [event["event_id"] for event in whole] == [str(seq) for seq in seqs(whole)]
    assert [phase(event) for event in whole if phase(event)] == ["running", "completed"]
    assert seqs(await until(c.raw, thread, is_end, since=1)) == seqs(whole), "from before the first run"
    for index, event in enumerate(whole[:-1]):
        assert seqs(await until(c.raw, thread, is_end, since=event["seq"])) == seqs(whole)[index + 1 :]


async def test_messages_are_streamed_in_blocks_with_their_node(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    await started(a, thread, "chat", {"messages": [{"type": "human", "content": "hi"}]})
    seen = await until(b.raw, thread, is_end)
    messages = [event["params"] for event in seen if event["method"] == "messages"]
    kinds = [params["data"]["event"] for params in messages]
    assert (kinds[0], kinds[-1]) == ("message-start", "message-finish")
    assert {params["node"] for params in messages} == {"model"}
    deltas = [params["data"]["delta"]["text"] for params in messages if "delta" in params["data"]]
    assert "".join(deltas) == "Hello to you"
    (custom,) = [event["params"]["data"] for event in seen if event["method"] == "custom"]
    assert custom == {"payload": {"progress": 1}}
    update = next(event["params"] for event in seen if event["method"] == "updates")
    assert update["node"] == "model"
    assert list(update["data"]) == ["messages"]
    checkpoints = [event["params"]["data"] for event in seen if event["method"] == "checkpoints"]
    assert [one["source"] for one in checkpoints] == ["input", "loop", "loop"]
    assert checkpoints[1]["parent_id"] == checkpoints[0]["id"]


async def test_interrupt_of_a_subgraph_is_answered_where_it_was_raised(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    await started(a, thread, "nested", INPUT)
    seen = await until(b.raw, thread, is_end)
    (requested,) = [event["params"] for event in seen if event["method"] == "input.requested"]
    (namespace,) = requested["namespace"]
    assert namespace.startswith("inner:")
    assert requested["data"]["payload"] == {"q": "inner"}
    assert phase(seen[-1]) == "interrupted"
    below = [event for event in seen if event["params"]["namespace"] and event["method"] == "lifecycle"]
    assert [event["params"]["data"]["event"] for event in below] == ["started", "interrupted"]

    answer = {"interrupt_id": requested["data"]["interrupt_id"], "namespace": [namespace], "response": "yes"}
    unknown = await command(c.raw, thread, "input.respond", **{**answer, "interrupt_id": "other"})
    assert unknown["error"] == "no_such_interrupt"
    assert (await command(c.raw, thread, "input.respond", **answer))["type"] == "success"
    rest = await until(a.raw, thread, is_end, since=seen[-1]["seq"], channels=["values", "lifecycle"])
    assert phase(rest[-1]) == "completed"
    roots = [event for event in rest if event["method"] == "values" and not event["params"]["namespace"]]
    assert roots[-1]["params"]["data"] == {"log": ["before", "before", "inner=yes", "y", "after"]}
    again = await command(c.raw, thread, "input.respond", responses=[answer])
    assert again["error"] == "no_such_interrupt"


SELECTIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({"channels": ["values"]}, {"values", "values|inner"}),
    ({"channels": ["values"], "namespaces": [[]], "depth": 0}, {"values"}),
    ({"channels": ["values"], "namespaces": [["inner"]]}, {"values|inner"}),
    ({"channels": ["values"], "namespaces": [["other"]]}, set()),
    ({"channels": ["tasks", "input"], "namespaces": [["inner"]], "depth": 0}, {"tasks|inner", "input|inner"}),
]


@pytest.mark.parametrize(("request_body", "wanted"), SELECTIONS)
async def test_subscription_selects_channels_namespaces_and_depth(
    team: Team, request_body: dict[str, Any], wanted: set[str]
) -> None:
    a, b, _ = team
    thread = str(uuid4())
    await started(a, thread, "nested", INPUT)
    whole = await until(a.raw, thread, is_end)
    selected = {"lifecycle", *request_body["channels"]}
    body = {**request_body, "channels": sorted(selected)}
    if "namespaces" in body:  # the end of the run is an event of the root
        body["namespaces"] = [*body["namespaces"], []]
        body["depth"] = 0 if "depth" in body or request_body["namespaces"] == [[]] else None
    seen = await until(b.raw, thread, is_end, **body)
    assert seqs(seen) == sorted({*seqs(seen)} & {*seqs(whole)})
    names = {_name(event) for event in seen if event["method"] != "lifecycle"}
    assert wanted <= names
    if "namespaces" not in request_body:
        assert names == wanted


def _name(event: Event) -> str:
    channel = "input" if event["method"] == "input.requested" else event["method"]
    return "|".join((channel, *(part.partition(":")[0] for part in event["params"]["namespace"])))


async def test_runs_of_a_thread_follow_each_other_in_one_order(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    for number, served in enumerate((a, b, c, a)):
        emits = [["custom", {"run": number, "n": n}] for n in range(3)]
        await started(served, thread, "function", {"emits": emits})
    whole = await until(b.raw, thread, Ends(4))
    assert seqs(whole) == sorted({*seqs(whole)})
    custom = [event["params"]["data"]["payload"] for event in whole if event["method"] == "custom"]
    assert custom == [{"run": run, "n": n} for run in range(4) for n in range(3)]
    for index in (0, 4, 7, 12):
        rest = await until(
            c.raw, thread, lambda event: event["seq"] == whole[-1]["seq"], since=seqs(whole)[index]
        )
        assert seqs(rest) == seqs(whole)[index + 1 :]


async def test_function_has_lifecycle_custom_updates_and_values(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    await started(
        a, thread, "function", {"emits": [["custom", 1], ["progress", 2], ["messages", {"content": 3}]]}
    )
    seen = await until(b.raw, thread, is_end)
    assert [event["method"] for event in seen] == [
        "lifecycle",
        "custom",
        "custom",
        "messages",
        "updates",
        "values",
        "lifecycle",
    ]
    assert seen[2]["params"]["data"] == {"name": "progress", "payload": 2}
    assert seen[4]["params"]["data"] == seen[5]["params"]["data"] == {"done": True}
    only = await until(b.raw, thread, is_end, channels=["custom:progress", "lifecycle"])
    assert [event["method"] for event in only] == ["lifecycle", "custom", "lifecycle"]


async def test_interrupts_of_a_function_are_answered(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    questions = [f"q{n}" for n in range(10)]
    await started(a, thread, "function", {"questions": questions})
    seen = await until(b.raw, thread, is_end)
    requested = [event for event in seen if event["method"] == "input.requested"]
    assert [event["params"]["data"]["payload"] for event in requested] == questions
    assert len({event["event_id"] for event in requested}) == len(questions)
    assert phase(seen[-1]) == "interrupted"
    answer = await command(
        c.raw, thread, "input.respond", responses=[{"interrupt_id": "id of q0", "response": 1}]
    )
    assert answer["type"] == "success"


async def test_only_question_of_a_function_is_resumed_with_its_answer(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    await started(a, thread, "function", {"questions": ["q"]})
    seen = await until(b.raw, thread, is_end)
    answer = {"interrupt_id": "id of q", "response": {"approved": True}}
    assert (await command(c.raw, thread, "input.respond", **answer))["type"] == "success"
    rest = await until(a.raw, thread, is_end, since=seen[-1]["seq"])
    (values,) = [event["params"]["data"] for event in rest if event["method"] == "values"]
    assert values == {"resumed": {"approved": True}}


async def test_chunks_of_a_function_are_messages_in_blocks(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    pairs = [("m1", "Hel"), ("m1", "lo"), ("m2", "you")]
    chunks = [[{"type": "AIMessageChunk", "id": key, "content": text}, {}] for key, text in pairs]
    run = await started(a, thread, "function", {"emits": [["messages", chunk] for chunk in chunks]})
    seen = await until(b.raw, thread, is_end)
    messages = [event["params"]["data"] for event in seen if event["method"] == "messages"]
    assert [message["event"] for message in messages] == [
        *("message-start", "content-block-start", "content-block-delta", "content-block-delta"),
        *("content-block-finish", "message-finish"),
        *("message-start", "content-block-start", "content-block-delta"),
        *("content-block-finish", "message-finish"),
    ]
    assert [(message["id"], message["role"]) for message in messages if "id" in message] == [
        ("m1", "ai"),
        ("m2", "ai"),
    ]
    whole = [message["content"]["text"] for message in messages if message["event"] == "content-block-finish"]
    assert whole == ["Hello", "you"]
    for index, event in enumerate(seen[:-1]):
        assert seqs(await until(b.raw, thread, is_end, since=event["seq"])) == seqs(seen)[index + 1 :]
    assert (await a.sdk.runs.get(thread, run))["status"] == "success"


async def test_run_starts_at_the_checkpoint_in_its_configuration(team: Team) -> None:
    """As `forkFrom` of the JavaScript client."""
    a, b, _ = team
    thread = str(uuid4())
    for number in (1, 2):
        await started(a, thread, "counter", {})
        await until(b.raw, thread, Ends(number))
    newest, *_, oldest = await a.sdk.threads.get_history(thread)
    assert newest["values"] == {"count": 2}
    begin = {"thread_id": thread, "checkpoint_id": oldest["checkpoint"]["checkpoint_id"]}
    await started(b, thread, "counter", None, config={"configurable": begin})
    seen = await until(a.raw, thread, Ends(3))
    assert [event["params"]["data"] for event in seen if event["method"] == "values"][-1] == {"count": 1}


async def test_state_of_a_busy_thread_has_next(team: Team) -> None:
    """Clients that open a thread read its stream only then."""
    a, b, _ = team
    thread = str(uuid4())
    run = await started(a, thread, "function", {"hangs": True})
    assert (await b.sdk.threads.get_state(thread))["next"] == ["__start__"]
    await b.sdk.runs.cancel(thread, run, wait=True)
    await started(a, thread, "function", {})
    await until(b.raw, thread, Ends(2))
    assert (await b.sdk.threads.get_state(thread))["next"] == []


async def test_failed_and_cancelled_runs_end_the_lifecycle(team: Team) -> None:
    a, b, c = team
    failed = str(uuid4())
    await started(a, failed, "failing", INPUT)
    last = (await until(b.raw, failed, is_end))[-1]
    assert phase(last) == "failed"
    assert "the node failed" in last["params"]["data"]["error"]

    cancelled = str(uuid4())
    run = await started(a, cancelled, "function", {"hangs": True, "emits": [["custom", 1]]})
    async for event in events(c.raw, cancelled):
        if event["method"] == "custom":
            break
    await b.sdk.runs.cancel(cancelled, run, action="rollback")
    assert phase((await until(c.raw, cancelled, is_end))[-1]) == "interrupted"


async def test_strategy_and_replay_of_a_busy_thread(team: Team) -> None:
    a, b, c = team
    thread = str(uuid4())
    first = await started(a, thread, "function", {"hangs": True})
    params: dict[str, Any] = {"assistant_id": "function", "input": {}}
    for spelling in ("multitask_strategy", "multitaskStrategy"):
        rejected = {"id": 1, "method": "run.start", "params": {**params, spelling: "reject"}}
        assert (await b.raw.post(f"/threads/{thread}/commands", json=rejected)).status_code == 409
    wrong = await command(b.raw, thread, "run.start", assistant_id="function", multitask_strategy="other")
    assert wrong["error"] == "invalid_argument"
    second = await started(b, thread, "function", {}, multitask_strategy="interrupt")
    seen = await until(c.raw, thread, Ends(2))
    assert [phase(event) for event in seen if phase(event)] == [
        "running",
        "interrupted",
        "running",
        "completed",
    ]
    assert first != second


async def test_runs_of_other_routes_are_in_the_stream(team: Team) -> None:
    a, b, _ = team
    thread = (await a.sdk.threads.create())["thread_id"]
    body = {"assistant_id": "asking", "input": INPUT, "stream_mode": ["values", "updates", "messages-tuple"]}
    assert (await a.raw.post(f"/threads/{thread}/runs/wait", json=body)).status_code == 200
    seen = await until(b.raw, thread, is_end)
    assert {"values", "input.requested"} <= {event["method"] for event in seen}
    assert all("__interrupt__" not in str(event) for event in seen)
    resumed = await started(b, thread, "asking", "yes")
    done = await until(a.raw, thread, is_end, since=seen[-1]["seq"])
    assert phase(done[-1]) == "completed"
    assert (await b.sdk.runs.get(thread, resumed))["status"] == "success"


async def test_tree_and_commands_that_are_not_served(team: Team) -> None:
    a, b, _ = team
    thread = str(uuid4())
    run = await started(a, thread, "nested", INPUT)
    await until(b.raw, thread, is_end)
    tree = (await command(b.raw, thread, "agent.getTree", run_id=run))["result"]["tree"]
    assert (tree["namespace"], tree["status"], tree["graph_name"]) == ([], "interrupted", "nested")
    (child,) = tree["children"]
    assert (child["status"], child["graph_name"]) == ("interrupted", "inner")
    assert (await command(b.raw, thread, "agent.getTree"))["result"]["tree"] == tree
    expected: dict[str, tuple[str, dict[str, Any]]] = {
        "agent.getTree": ("no_such_run", {"run_id": str(uuid4())}),
        "input.respond": ("invalid_argument", {}),
        "run.start": ("invalid_argument", {"assistant_id": "unknown", "input": {}}),
        "state.get": ("not_supported", {"namespace": []}),
        "subscription.subscribe": ("not_supported", {"channels": ALL}),
        "other": ("unknown_command", {}),
    }
    for method, (code, params) in expected.items():
        answer = await command(b.raw, thread, method, **params)
        assert (answer["type"], answer["error"]) == ("error", code), method


async def test_invalid_requests_are_refused(team: Team) -> None:
    a, _, _ = team
    thread = (await a.sdk.threads.create())["thread_id"]
    streams: list[dict[str, Any]] = [
        {},
        {"channels": []},
        {"channels": ["other"]},
        {"channels": ["custom:"]},
        {"channels": ALL, "since": -1},
        {"channels": ALL, "since": 2**62},
    ]
    for body in streams:
        assert (await a.raw.post(f"/threads/{thread}/stream/events", json=body)).status_code == 422
    commands: list[dict[str, Any]] = [
        {},
        {"id": 1},
        {"id": "1", "method": "run.start"},
        {"id": 1, "method": 2},
    ]
    for body in commands:
        assert (await a.raw.post(f"/threads/{thread}/commands", json=body)).status_code == 422
    unknown = await a.raw.post(f"/threads/{uuid4()}/stream/events", json={"channels": ALL})
    assert unknown.status_code == 404


async def test_stream_ends_when_the_thread_is_deleted(team: Team) -> None:
    a, b, _ = team
    thread = (await a.sdk.threads.create())["thread_id"]
    stream = events(b.raw, thread)
    following = asyncio.ensure_future(anext(stream))
    await wait_until(lambda: b.gateway.state.services.watchers.open, description="the stream is open")
    await a.sdk.threads.delete(thread)
    last = await following
    assert (last["type"], last["error"]) == ("error", "no_such_run")
    assert [one async for one in stream] == []
