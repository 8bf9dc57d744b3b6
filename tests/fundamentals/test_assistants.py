"""Assistants by name: their inputs, and the values of their threads, which updates may change."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Generator
from functools import partial, wraps
from pathlib import Path
from types import ModuleType, coroutine
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid5

import pytest
from pydantic import BaseModel, Field

from coordinator import (
    CheckpointRef,
    ConflictError,
    Event,
    Interrupt,
    InvalidArgument,
    Outcome,
    RunContext,
    RunFailed,
    RunManager,
    RunRequest,
    StateView,
    ThreadNotFound,
    assistant,
    open_coordinator,
)
from coordinator.assistants.decorator import named_agents
from coordinator.assistants.registry import NAMESPACE
from coordinator.context import current_run
from tests.support.agents import Agent, launched, running
from tests.support.held import hold_calls
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class Poem(BaseModel):
    subject: str
    lines: int = Field(default=4, gt=0)


@assistant(name="poet", input=Poem)
async def write_poem(ctx: RunContext) -> dict[str, Any]:
    """Writes poems."""
    assert isinstance(ctx.input, Poem)
    return {"poem": f"{ctx.input.lines} lines about {ctx.input.subject}"}


@assistant
async def echo(ctx: RunContext) -> dict[str, Any]:
    return {"echo": ctx.input}


async def pauses(ctx: RunContext) -> Outcome:
    return Outcome(values={"paused": True}, paused=True, interrupts=(Interrupt("may I?", "q1"),))


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncGenerator[RunManager]:
    agents = {"poet": write_poem, "echo": echo, "pauses": pauses}
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=agents, **QUICK) as manager:
        yield manager


async def done(manager: RunManager, thread: str, name: str, **admission: Any) -> Any:
    run = await manager.create_or_reject(thread, name, **admission)
    manager.launch(run)
    return await manager.wait(run.run_id, timeout=10)


# -- inputs


async def test_input_that_violates_the_model_is_refused_before_anything_is_written(
    manager: RunManager,
) -> None:
    for wrong in (
        {"lines": 2},
        {"subject": "rain", "lines": 0},
        {"subject": "rain", "lines": "many"},
        "rain",
    ):
        with pytest.raises(InvalidArgument) as refusal:
            await manager.create_or_reject("t", "poet", kwargs={"input": wrong})
        assert refusal.value.argument == "input"
        assert "many" not in str(refusal.value), "an input may be secret"
    assert await manager.store.thread("t") is None
    assert await done(manager, "t", "poet", kwargs={"input": {"subject": "rain"}}) == {
        "poem": "4 lines about rain"
    }


async def test_refused_run_replaces_nothing(manager: RunManager) -> None:
    run, agent = await running(manager, "t")
    with pytest.raises(InvalidArgument):
        await manager.create_or_reject("t", "poet", kwargs={"input": {}}, multitask_strategy="rollback")
    assert run.status == "running"
    assert not agent.cancelled.is_set()


async def test_assistant_without_input_model_accepts_any_input(manager: RunManager) -> None:
    assert await done(manager, "t", "echo", kwargs={"input": [1, {"a": None}]}) == {"echo": [1, {"a": None}]}
    assert await done(manager, "u", "echo", kwargs={"q": 1}) == {"echo": {"q": 1}}


async def test_kwargs_that_are_no_request_are_refused(manager: RunManager) -> None:
    with pytest.raises(InvalidArgument, match="kwargs"):
        await manager.create_or_reject("t", "echo", kwargs={"input": 1, "stream_mode": 5})


# -- names


async def test_assistant_is_addressed_by_name_or_uuid(manager: RunManager) -> None:
    poet = manager.assistants.id_of("poet")
    assert poet == str(uuid5(NAMESPACE, "poet"))
    assert manager.assistants.id_of("agent") == "fe096781-5601-53d2-b2f6-0d3403f7e9ca", "known to clients"
    assert (
        manager.assistants.get(poet)
        is manager.assistants.get(poet.upper())
        is manager.assistants.named("poet")
    )
    assert await done(manager, "t", poet, kwargs={"input": {"subject": "rain"}})
    (row,) = await manager.runs.recent()
    assert (row.assistant_id, row.portable) == ("poet", True)


async def test_unknown_assistant_id_is_stored_unchanged(manager: RunManager) -> None:
    unknown = str(UUID(int=1))
    record = await manager.create_or_reject("t", unknown)
    assert record.assistant_id == unknown
    assert manager.assistants.get(unknown) is None
    assert manager.assistants.get(None) is None
    with pytest.raises(InvalidArgument, match=unknown):
        manager.assistants.named(unknown)


async def test_launch_of_unknown_assistant_names_those_that_are_registered() -> None:
    manager = RunManager(assistants={"echo": echo, "agent": pauses})
    record = await manager.create_or_reject("t", "agnt")
    with pytest.raises(InvalidArgument) as refused:
        manager.launch(record)
    assert str(refused.value) == (
        "agent: no assistant is registered as 'agnt'; registered are 'agent', 'echo'. The run stays admitted:"
        " launch it with a function, or cancel it. Else it ends after launch_timeout"
    )
    manager.launch(record, echo)
    await manager.wait(record.run_id)
    record = await manager.create_or_reject("t")
    with pytest.raises(InvalidArgument, match="the run has no assistant_id; registered are 'agent', 'echo'"):
        manager.launch(record)


def test_text_in_place_of_assistants_is_refused() -> None:
    for text in ("agent", b"agent"):
        refused: Any = text
        with pytest.raises(InvalidArgument, match=r"must be a mapping from names.*, not (str|bytes)"):
            RunManager(assistants=refused)


def test_assistants_are_registered_once_by_name() -> None:
    manager = RunManager(assistants=[write_poem])
    known = manager.assistants
    assert list(known) == ["poet"]
    known.register(echo)
    known.register(pauses, name="hitl")
    known.register(echo)
    assert known.names == ("poet", "echo", "hitl")
    assert known.named("hitl").name == "hitl"
    with pytest.raises(InvalidArgument, match="another"):
        known.register(pauses, name="echo")
    with pytest.raises(InvalidArgument, match="async function"):
        known.register(5, name="five")  # type: ignore[arg-type]  # refused, which is tested
    with pytest.raises(InvalidArgument, match="characters"):
        known.register(pauses, name="a" * 256)


async def test_function_that_no_run_could_call_is_neither_registered_nor_launched(
    manager: RunManager,
) -> None:
    async def parts(ctx: RunContext) -> AsyncGenerator[int]:
        yield 1

    def generator(ctx: RunContext) -> Generator[int]:
        yield 1

    async def nothing() -> None: ...
    async def pair(ctx: RunContext, database: str) -> None: ...
    async def keyword(ctx: RunContext, *, database: str) -> None: ...

    class Parts:
        async def __call__(self, ctx: RunContext) -> AsyncGenerator[int]:
            yield 1

    class Generated:
        def __call__(self, ctx: RunContext) -> Generator[int]:
            yield 1

    class Pair:
        async def __call__(self, ctx: RunContext, database: str) -> None: ...

    for function, why in (
        (parts, r"parts is an async generator. Return .* ctx\.emit"),
        (nothing, r"nothing cannot be called with one positional argument.* async def nothing\(ctx\)"),
        (pair, r"pair cannot be called with one positional argument"),
        (keyword, r"keyword cannot be called with one positional argument"),
        (generator, r"generator is a generator. Write it as async def generator\(ctx\).* ctx\.emit"),
        (partial(generator), r"partial is a generator"),
        (Generated(), r"Generated is a generator. Write it as async def __call__\(ctx\)"),
        (Parts(), r"Parts is an async generator"),
        (Pair(), r"Pair cannot be called with one positional argument"),
    ):
        refused: Any = function
        with pytest.raises(InvalidArgument, match=why):
            manager.assistants.register(refused, name="unfit")
        record = await manager.create_or_reject(f"thread of {why}")
        with pytest.raises(InvalidArgument, match=why):
            manager.launch(record, refused)
        assert record.task is None
        manager.launch(record, echo)  # the refusal has left the run as it was
        await manager.wait(record.run_id)
    assert "unfit" not in manager.assistants


async def test_function_whose_result_cannot_be_awaited_fails_its_run_with_a_remedy(
    manager: RunManager,
) -> None:
    def plain(ctx: RunContext) -> dict[str, int]:
        return {"a": 1}

    class Plain:
        def __call__(self, ctx: RunContext) -> None: ...

    for function, why in (
        (plain, "plain returned dict, which cannot be awaited. Write it as async def plain(ctx)"),
        (Plain(), "Plain returned NoneType, which cannot be awaited. Write it as async def __call__(ctx)"),
    ):
        refused: Any = function
        record = await manager.create_or_reject("t")
        manager.launch(record, refused)
        with pytest.raises(RunFailed, match=re.escape(why)):
            await manager.wait(record.run_id)


async def test_functions_that_can_be_called_with_the_context_alone_are_registered(
    manager: RunManager,
) -> None:
    async def defaults(ctx: RunContext, database: str = "d", *more: str, key: str = "k") -> None: ...
    async def pair(ctx: RunContext, database: str) -> None: ...

    @wraps(pair)
    async def supplied(*given: Any) -> None:
        await pair(given[0], "d")

    def awaitable(ctx: RunContext) -> Awaitable[None]:
        return pair(ctx, "d")

    @coroutine
    def iterable(ctx: RunContext) -> Generator[Any]:
        yield from asyncio.sleep(0).__await__()

    class Bound:
        async def __call__(self, ctx: RunContext) -> None: ...
        async def method(self, ctx: RunContext) -> None: ...

    known = RunManager().assistants
    fit: dict[str, Any] = {
        "defaults": defaults,
        "wrapper": supplied,
        "partial": partial(pair, database="d"),
        "object": Bound(),
        "method": Bound().method,
        "returns an awaitable": awaitable,
        "generator that can be awaited": iterable,
        "AsyncMock": AsyncMock(spec=pair, return_value=None),
    }
    for name, function in fit.items():
        known.register(function, name=name)
        record = await manager.create_or_reject(f"thread of {name}")
        manager.launch(record, function)
        await manager.wait(record.run_id)
    assert known.names == tuple(fit)


async def test_registration_after_open_is_refused(manager: RunManager) -> None:
    async def late(ctx: RunContext) -> None: ...

    with pytest.raises(InvalidArgument, match="before"):
        manager.assistants.register(late)
    manager.assistants.register(write_poem)


def test_collection_of_assistants_is_registered_by_name() -> None:
    module = ModuleType("agents")
    vars(module).update(poet=write_poem, echo=echo, helper=pauses, Poem=Poem, number=5)
    assert named_agents(module) == {"poet": write_poem, "echo": echo}
    assert named_agents(write_poem) == {"poet": write_poem}
    assert named_agents([write_poem, echo]) == {"poet": write_poem, "echo": echo}
    assert named_agents({"other": write_poem}) == {"other": write_poem}
    with pytest.raises(InvalidArgument, match="no name"):
        named_agents([pauses])
    with pytest.raises(InvalidArgument, match="no name"):
        named_agents(5)
    with pytest.raises(InvalidArgument, match="two agents are named"):
        named_agents([write_poem, assistant(name="poet")(Agent())])


async def test_assistants_describe_their_schemas(manager: RunManager) -> None:
    described = await manager.assistants.named("poet").describe()
    assert described.text == "Writes poems."
    assert described.input_schema["required"] == ["subject"]
    assert (await manager.assistants.named("echo").describe()).input_schema is None


# -- results


@pytest.mark.parametrize("on_its_way", [{"words": ["one"]}, {"words": ["one", "two"]}, None])
async def test_returned_dict_is_saved_as_thread_values(manager: RunManager, on_its_way: Any) -> None:
    """Whatever the run has saved before, `wait` and the thread agree on its result."""

    async def counts(ctx: RunContext) -> dict[str, Any]:
        if on_its_way is not None:
            await ctx.save(on_its_way)
        return {"words": ["one", "two"]}

    run = await manager.create_or_reject("t", kwargs={"input": 1, "stream_mode": ["values"]})
    manager.launch(run, counts)
    result = await manager.wait(run.run_id, timeout=10)
    assert result == (await view_of(manager)).values == {"words": ["one", "two"]}
    states = [event.data for event in await manager.events(run.run_id) if isinstance(event, Event)]
    assert states == ([on_its_way] if on_its_way not in (None, result) else []) + [result], "each state once"


async def test_outcome_separates_result_from_saved_values(manager: RunManager) -> None:
    async def scores(ctx: RunContext) -> Outcome:
        await ctx.save({"kept": True})
        return Outcome(result={"score": 1})

    run = await manager.create_or_reject("t")
    manager.launch(run, scores)
    assert await manager.wait(run.run_id, timeout=10) == {"score": 1}
    assert (await view_of(manager)).values == {"kept": True}


# -- the state of their threads


async def test_state_of_a_function_is_the_stored_values(manager: RunManager) -> None:
    with pytest.raises(ThreadNotFound):
        await manager.threads.state("t")
    await done(manager, "t", "echo", kwargs={"input": 1}, user_id="ann")
    view = await manager.threads.state("t")
    assert view is not None
    assert (view.values, view.next, view.tasks, view.interrupts) == ({"echo": 1}, (), (), ())
    assert view.checkpoint is not None
    assert view.metadata["graph_id"] == "echo"
    assert await manager.threads.state("t") == view, "repeated reads return the same id"
    assert await manager.threads.state("t", view.checkpoint) == view
    assert await manager.threads.state("t", CheckpointRef("unknown")) is None
    first, *older = [each async for each in manager.threads.history("t")]
    assert first == view
    assert [each async for each in manager.threads.history("t", before=view.checkpoint)] == older
    assert [each async for each in manager.threads.history("t", limit=0)] == []
    assert [each async for each in manager.threads.history("t", metadata={"graph_id": "poet"})] == []
    with pytest.raises(ThreadNotFound):
        await manager.threads.state("t", user_id="bob")
    with pytest.raises(ThreadNotFound):
        [each async for each in manager.threads.history("t", user_id="bob")]
    with pytest.raises(ThreadNotFound):
        await manager.threads.update_state("t", {}, user_id="bob")


async def test_new_thread_has_an_empty_state(manager: RunManager) -> None:
    await manager.create_or_reject("t")
    assert await manager.threads.state("t") == StateView(
        next=("__start__",),  # the run has not begun
        metadata={"thread_id": "t", "graph_id": None},
        created_at=(await view_of(manager)).created_at,
    )
    assert [each async for each in manager.threads.history("t")] == []


async def view_of(manager: RunManager, thread: str = "t") -> StateView:
    view = await manager.threads.state(thread)
    assert view is not None
    return view


async def test_paused_run_shows_its_question(manager: RunManager) -> None:
    await done(manager, "t", "pauses")
    view = await view_of(manager)
    assert (view.next, view.interrupts) == (("pauses",), (Interrupt("may I?", "q1"),))
    assert view.tasks[0]["interrupts"] == [{"value": "may I?", "id": "q1"}]


async def test_caller_of_a_state_update_does_not_belong_to_it_afterwards(manager: RunManager) -> None:
    await done(manager, "t", "echo", kwargs={"input": 1})
    await manager.threads.update_state("t", {"more": 2})
    assert current_run.get() is None


async def test_state_update_merges_keys_and_returns_the_checkpoint(manager: RunManager) -> None:
    await done(manager, "t", "echo", kwargs={"input": 1})
    before = (await view_of(manager)).checkpoint
    after = await manager.threads.update_state("t", {"more": [2]}, at=before)
    view = await view_of(manager)
    assert (view.values, view.checkpoint) == ({"echo": 1, "more": [2]}, after)
    assert await manager.threads.update_state("t", [{"echo": 0}, None, {"more": 3}], as_node="echo")
    assert (await view_of(manager)).values == {"echo": 0, "more": 3}
    unchanged = await manager.threads.update_state("t", None, as_node="__start__")
    assert unchanged == (await view_of(manager)).checkpoint
    steps = await manager.runs.recent(thread_id="t")
    assert len(steps) == 1, "operations are no runs"


@pytest.mark.parametrize(
    ("values", "fields", "named"),
    [
        ("text", {}, "values"),
        ([{"a": 1}, 2], {}, "values"),
        ({}, {"as_node": "elsewhere"}, "as_node"),
        ({}, {"at": CheckpointRef("unknown")}, "checkpoint"),
        ({}, {"at": CheckpointRef(None, "subgraph")}, "checkpoint"),
    ],
)
async def test_invalid_state_update_is_refused(
    manager: RunManager, values: Any, fields: dict[str, Any], named: str
) -> None:
    await done(manager, "t", "echo", kwargs={"input": 1})
    with pytest.raises(InvalidArgument) as refusal:
        await manager.threads.update_state("t", values, **fields)
    assert refusal.value.argument == named
    assert (await view_of(manager)).values == {"echo": 1}
    await manager.create_or_reject("t")  # the thread is free


async def test_state_of_an_unknown_assistant_is_readable_but_not_writable(manager: RunManager) -> None:
    await launched(manager, "t", Agent(returns={"a": 1}), assistant_id="elsewhere")
    with pytest.raises(InvalidArgument, match="elsewhere"):
        await manager.threads.update_state("t", {"a": 2})
    assert (await view_of(manager)).metadata["graph_id"] == "elsewhere"


@pytest.mark.parametrize("operator", [0, 1], ids=["same worker", "other worker"])
async def test_state_of_a_busy_thread_is_readable_but_not_writable(
    team: list[RunManager], operator: int
) -> None:
    run, agent = await running(team[0], "t", Agent(saves={"step": 1}, returns={"step": 2}))
    assert (await view_of(team[operator])).values == {"step": 1}
    with pytest.raises(ConflictError) as conflict:
        await team[operator].threads.update_state("t", {"step": 9})
    assert conflict.value.active_run_id == run.run_id
    agent.may_end.set()
    await team[operator].wait(run.run_id, timeout=10)
    await team[operator].threads.update_state("t", {"more": 1})
    assert (await view_of(team[0])).values == {"step": 2, "more": 1}


async def test_state_update_holds_the_thread(team: list[RunManager]) -> None:
    """A run of another worker starts after the update, and reads the values that it wrote."""
    a, b = team
    await a.threads.replace_values("t", {"n": 1})
    held = hold_calls(a.store, "save")
    updating = asyncio.create_task(a.threads.update_state("t", {"n": 2}))
    await held.reached.wait()
    with pytest.raises(ConflictError):
        await b.create_or_reject("t")
    run, agent = await launched(b, "t", multitask_strategy="enqueue")
    held.go_on.set()
    await updating
    async with asyncio.timeout(20):
        await agent.started.wait()
    assert agent.ctx.values == {"n": 2}
    agent.may_end.set()
    await b.wait(run.run_id, timeout=20)


async def test_copied_thread_keeps_its_assistant(manager: RunManager) -> None:
    await done(manager, "t", "echo", kwargs={"input": 1})
    await manager.threads.copy("t", "copy")
    view = await view_of(manager, "copy")
    assert (view.values, view.metadata["graph_id"]) == ({"echo": 1}, "echo")


def test_request_survives_storage() -> None:
    request = RunRequest.of(
        {
            "input": {"a": None},
            "command": {"resume": 1, "goto": ["n"]},
            "checkpoint": {"checkpoint_id": "c", "thread_id": "of another user"},
            "stream_mode": "values",
            "stream_resumable": True,
            "interrupt_before": [],
            "feedback_keys": ["k"],
            "strict_resume": False,
        },
        {"m": 1},
    )
    assert request.checkpoint == CheckpointRef("c")
    assert RunRequest.of(request.kwargs(), {"m": 1}) == request
    assert RunRequest().kwargs() == {"input": None}


async def test_progress_with_an_unknown_counter_is_refused_without_effect(manager: RunManager) -> None:
    run, agent = await running(manager, "t")
    with pytest.raises(InvalidArgument, match=r"totl_tokens: is not known; .*total_tokens,.* model_name"):
        agent.ctx.progress(totl_tokens=5, llm_call_count=1)
    assert run.llm_call_count == 0
    assert agent.running


async def test_reported_model_name_is_stored(manager: RunManager) -> None:
    run, agent = await running(manager, "t")
    held = hold_calls(manager.store, "update_model_name")
    agent.ctx.progress(model_name="first", total_tokens=3)
    await held.reached.wait()
    agent.ctx.progress(model_name=" second ")
    agent.ctx.progress(total_tokens=4, model_name=None)
    assert run.model_name == "second"
    held.go_on.set()

    async def written() -> bool:
        row = await manager.store.row(run.run_id)
        assert row is not None
        return (row.model_name, row.counters["total_tokens"]) == ("second", 4)

    await wait_until(written, description="the last name and the last counter")
    with pytest.raises(InvalidArgument, match="model_name"):
        agent.ctx.progress(model_name=5)


async def test_model_name_that_is_reported_last_is_stored_when_the_run_has_ended(manager: RunManager) -> None:
    async def name_model(ctx: RunContext) -> None:
        ctx.progress(model_name="last")

    run = await manager.create_or_reject("t")
    manager.launch(run, name_model)
    await manager.wait(run.run_id, timeout=20)
    row = await manager.store.row(run.run_id)
    assert row is not None
    assert row.model_name == "last"
