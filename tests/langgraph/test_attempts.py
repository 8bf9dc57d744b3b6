"""A graph's run is continued by another worker: from the step at which a draining worker has stopped it, or
from the last one that a dead worker has written."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from coordinator import RunFailed, RunManager, RunStatus, open_coordinator
from coordinator.langgraph import GraphAssistant, sqlite_states
from tests.langgraph.lab import begun, done, view
from tests.support.inside import assembly_of
from tests.support.teams import QUICK

SHORT: dict[str, Any] = {"renew": 0.2, "lease_ttl": 0.8, "lease_margin": 0.3, "sweep": 0.1}


class Log(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Gates:
    """Nodes note their executions in `calls`. One whose name is in `closed` waits, after that, until it is
    opened; `reached` is set when it does."""

    def __init__(self, *closed: str) -> None:
        self.closed = {name: asyncio.Event() for name in closed}
        self.reached = {name: asyncio.Event() for name in closed}
        self.calls: list[str] = []

    async def take(self, name: str) -> None:
        self.calls.append(name)
        if name in self.closed and not self.closed[name].is_set():
            self.reached[name].set()
            await self.closed[name].wait()

    async def at(self, name: str) -> None:
        async with asyncio.timeout(10):
            await self.reached[name].wait()

    def open(self, name: str) -> None:
        self.closed[name].set()

    def node(self, name: str) -> Any:
        async def node(state: Log) -> Log:
            await self.take(name)
            return {"log": [name]}

        return node

    def chain(self, *names: str, builder: Any = None) -> Any:
        builder = builder or StateGraph(Log)
        for name in names:
            builder.add_node(name, self.node(name))
        for source, target in zip((START, *names), names, strict=False):
            builder.add_edge(source, target)
        return builder


@asynccontextmanager
async def pair(
    folder: Path, graph: Any, *, retries: int = 1, **settings: Any
) -> AsyncGenerator[tuple[RunManager, RunManager]]:
    """Two workers. The lease of the second is long: it outlives the first one, also on a busy machine."""
    first: dict[str, Any] = {**QUICK, "lease_ttl": 30.0, **settings}
    second: dict[str, Any] = {**first, "renew": QUICK["renew"], "lease_ttl": 30.0}
    async with AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(
                open_coordinator(
                    f"sqlite:///{folder}/runs.db",
                    assistants={
                        "g": GraphAssistant(
                            graph,
                            sqlite_states(folder / "checkpoints.db", synchronous="NORMAL"),
                            name="g",
                            retries=retries,
                        )
                    },
                    **given,
                )
            )
            for given in (first, second)
        ]
        yield managers[0], managers[1]


async def hang(manager: RunManager) -> None:
    """The worker renews its lease no more, and is fenced."""
    await assembly_of(manager).loops.stop()
    await assembly_of(manager).pacemaker.stop()


async def test_drained_graph_stops_between_two_steps_and_continues_elsewhere(tmp_path: Path) -> None:
    gates = Gates("b")
    async with pair(tmp_path, gates.chain("a", "b", "c")) as (a, b):
        run = await begun(a, "g", input={"log": []})
        await gates.at("b")
        draining = asyncio.create_task(a.shutdown(timeout=20))
        gates.open("b")
        await draining
        assert await b.wait(run.run_id, timeout=20) == {"log": ["a", "b", "c"]}
        assert gates.calls == ["a", "b", "c"]
        row = (await b.runs.explain(run.run_id)).run
        assert (row.status, row.retries, row.paused) == (RunStatus.success, 1, False)


@pytest.mark.parametrize("modes", [["values"], ["events", "updates"]])
async def test_drain_with_every_kind_of_stream(tmp_path: Path, modes: list[str]) -> None:
    gates = Gates("b")
    async with pair(tmp_path, gates.chain("a", "b", "c")) as (a, b):
        run = await begun(a, "g", input={"log": []}, stream_mode=modes)
        await gates.at("b")
        draining = asyncio.create_task(a.shutdown(timeout=20))
        await asyncio.sleep(0)
        gates.open("b")
        await draining
        assert await b.wait(run.run_id, timeout=20) == {"log": ["a", "b", "c"]}
        assert gates.calls == ["a", "b", "c"]


async def test_graph_of_a_dead_worker_continues_with_the_step_that_was_interrupted(tmp_path: Path) -> None:
    gates = Gates("b")
    async with pair(tmp_path, gates.chain("a", "b", "c"), **SHORT) as (a, b):
        run = await begun(a, "g", input={"log": []})
        await gates.at("b")
        gates.reached["b"].clear()
        await hang(a)
        await gates.at("b")
        gates.open("b")
        assert await b.wait(run.run_id, timeout=20) == {"log": ["a", "b", "c"]}
        assert gates.calls == ["a", "b", "b", "c"]


async def test_graph_without_retries_ends_with_its_worker_and_is_not_handed_over(tmp_path: Path) -> None:
    gates = Gates("b")
    async with pair(tmp_path, gates.chain("a", "b", "c"), retries=0, **SHORT) as (a, b):
        run = await begun(a, "g", input={"log": []})
        await gates.at("b")
        await hang(a)
        with pytest.raises(RunFailed):
            await b.wait(run.run_id, timeout=20)


async def test_step_that_outlasts_the_grace_is_repeated_elsewhere(tmp_path: Path) -> None:
    gates = Gates("b")
    async with pair(tmp_path, gates.chain("a", "b", "c")) as (a, b):
        run = await begun(a, "g", input={"log": []})
        await gates.at("b")
        gates.reached["b"].clear()
        await a.shutdown(timeout=0.2)
        await gates.at("b")
        gates.open("b")
        assert await b.wait(run.run_id, timeout=20) == {"log": ["a", "b", "c"]}
        assert gates.calls == ["a", "b", "b", "c"]


@pytest.mark.parametrize("persistent", [None, True], ids=["stateless", "persistent"])
async def test_subgraph_drains_between_its_own_steps(tmp_path: Path, persistent: bool | None) -> None:
    gates = Gates("y")
    inner = gates.chain("x", "y", "z").compile(checkpointer=persistent)
    builder: Any = StateGraph(Log)
    builder.add_node("before", gates.node("before"))
    builder.add_node("inner", inner)
    builder.add_node("after", gates.node("after"))
    for source, target in ((START, "before"), ("before", "inner"), ("inner", "after")):
        builder.add_edge(source, target)
    async with pair(tmp_path, builder) as (a, b):
        run = await begun(a, "g", input={"log": []})
        await gates.at("y")
        draining = asyncio.create_task(a.shutdown(timeout=20))
        await asyncio.sleep(0)
        gates.open("y")
        await draining
        result = await b.wait(run.run_id, timeout=20)
        assert gates.calls == ["before", "x", "y", "z", "after"]
        assert result["log"][-2:] == ["z", "after"]


async def test_finished_tasks_of_an_entrypoint_are_not_repeated(tmp_path: Path) -> None:
    gates = Gates("two")

    @task
    async def step(name: str) -> str:
        await gates.take(name)
        return name

    @entrypoint()
    async def flow(names: list[str]) -> list[str]:
        return [await step(name) for name in names]

    async with pair(tmp_path, flow) as (a, b):
        run = await begun(a, "g", input=["one", "two", "three"])
        await gates.at("two")
        gates.reached["two"].clear()
        await a.shutdown(timeout=0.2)
        await gates.at("two")
        gates.open("two")
        assert await b.wait(run.run_id, timeout=20) == ["one", "two", "three"]
        assert gates.calls == ["one", "two", "two", "three"]


async def test_drain_in_front_of_a_breakpoint_pauses(tmp_path: Path) -> None:
    gates = Gates("a")
    async with pair(tmp_path, gates.chain("a", "b")) as (a, b):
        run = await begun(a, "g", input={"log": []}, interrupt_before=["b"])
        await gates.at("a")
        draining = asyncio.create_task(a.shutdown(timeout=20))
        await asyncio.sleep(0)
        gates.open("a")
        await draining
        assert await b.wait(run.run_id, timeout=20) == {"log": ["a"]}
        assert (await view(b)).next == ("b",)
        assert (await b.runs.explain(run.run_id)).run.paused


async def test_rollback_of_a_continued_run_undoes_all_attempts(tmp_path: Path) -> None:
    gates = Gates("b", "c")
    gates.open("b")
    gates.open("c")
    async with pair(tmp_path, gates.chain("a", "b", "c")) as (a, b):
        await done(a, "g", input={"log": ["first"]})
        before = await view(b)
        gates.closed = {name: asyncio.Event() for name in ("b", "c")}
        run = await begun(a, "g", input={"log": ["second"]})
        await gates.at("b")
        draining = asyncio.create_task(a.shutdown(timeout=20))
        await asyncio.sleep(0)
        gates.open("b")
        await draining
        await gates.at("c")
        assert await b.cancel(run.run_id, action="rollback", wait=10)
        assert await view(b) == before
        assert await done(b, "g", input=None) is not None


async def dies_before_its_end(
    a: RunManager, monkeypatch: pytest.MonkeyPatch, graph: str, **request: Any
) -> str:
    """Begins a run whose worker dies when the graph has written all, before the end of the run is written."""
    never, returned = asyncio.Event(), asyncio.Event()
    assistant: Any = assistant_of(a, graph)
    run = assistant.run

    async def hanging(ctx: Any, request: Any) -> Any:
        await run(ctx, request)
        returned.set()
        await never.wait()

    monkeypatch.setattr(assistant, "run", hanging)
    record = await begun(a, graph, **request)
    async with asyncio.timeout(10):
        await returned.wait()
    await hang(a)
    return record.run_id


def assistant_of(manager: RunManager, name: str) -> Any:
    return assembly_of(manager).shared.assistants.named(name)


BREAKPOINTS: list[dict[str, Any]] = [
    {"interrupt_before": ["b"]},
    {"interrupt_after": ["a"]},
    {"interrupt_after": "*"},
]


@pytest.mark.parametrize("point", BREAKPOINTS, ids=str)
async def test_run_whose_worker_died_at_a_breakpoint_pauses_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: dict[str, Any]
) -> None:
    gates = Gates()
    async with pair(tmp_path, gates.chain("a", "b", "c"), **SHORT) as (a, b):
        run_id = await dies_before_its_end(a, monkeypatch, "g", input={"log": []}, **point)
        assert await b.wait(run_id, timeout=20) == {"log": ["a"]}
        assert (await b.runs.explain(run_id)).run.paused
        assert gates.calls == ["a"]
        assert await done(b, "g", input=None) == {"log": ["a", "b", "c"]}


async def test_breakpoint_of_a_compiled_graph_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = Gates()
    graph = gates.chain("a", "b").compile(interrupt_before=["b"])
    async with pair(tmp_path, graph, **SHORT) as (a, b):
        run_id = await dies_before_its_end(a, monkeypatch, "g", input={"log": []})
        assert await b.wait(run_id, timeout=20) == {"log": ["a"]}
        assert gates.calls == ["a"]


async def test_graph_that_has_finished_is_not_executed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = Gates()
    async with pair(tmp_path, gates.chain("a", "b"), **SHORT) as (a, b):
        run_id = await dies_before_its_end(a, monkeypatch, "g", input={"log": []})
        assert await b.wait(run_id, timeout=20) == {"log": ["a", "b"]}
        assert gates.calls == ["a", "b"]
        assert not (await b.runs.explain(run_id)).run.paused


def asking(gates: Gates, *questions: str) -> Any:
    async def question_all(state: Log) -> Log:
        answers: list[str] = []
        for question in questions:
            answers.append(f"{question}={interrupt(question)}")
            await gates.take(question)
        return {"log": answers}

    builder: Any = StateGraph(Log)
    builder.add_node("questions", question_all)
    builder.add_edge(START, "questions")
    return builder


def within(inner: Any) -> Any:
    builder: Any = StateGraph(Log)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "inner")
    return builder


@pytest.mark.parametrize("nested", [False, True], ids=["root", "subgraph"])
async def test_answer_is_given_again_if_it_was_not_used(tmp_path: Path, nested: bool) -> None:
    """The worker dies behind the first question, before the second one is put."""
    gates = Gates("one")
    graph = asking(gates, "one", "two")
    async with pair(tmp_path, within(graph) if nested else graph, **SHORT) as (a, b):
        await done(a, "g", input={"log": []})
        run = await begun(a, "g", command={"resume": "yes"})
        await gates.at("one")
        gates.reached["one"].clear()
        await hang(a)
        await gates.at("one")
        gates.open("one")
        await b.wait(run.run_id, timeout=20)
        assert [one.value for one in (await view(b)).interrupts] == ["two"]
        assert (await done(b, "g", command={"resume": "no"}))["log"][-2:] == ["one=yes", "two=no"]


@pytest.mark.parametrize("nested", [False, True], ids=["root", "subgraph"])
@pytest.mark.parametrize("by_id", [False, True], ids=["plain", "by id"])
@pytest.mark.parametrize("answer", ["yes", None])
async def test_answer_that_was_used_does_not_answer_the_next_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, by_id: bool, nested: bool
) -> None:
    """The worker dies when the second question is written, and the pause is not."""
    graph = asking(Gates(), "one", "two")
    async with pair(tmp_path, within(graph) if nested else graph, **SHORT) as (a, b):
        await done(a, "g", input={"log": []})
        [question] = (await view(a)).interrupts
        command = {"resume": {question.id: answer} if by_id else answer}
        run_id = await dies_before_its_end(a, monkeypatch, "g", command=command)
        await b.wait(run_id, timeout=20)
        assert (await b.runs.explain(run_id)).run.paused
        assert [one.value for one in (await view(b)).interrupts] == ["two"]
        log = (await done(b, "g", command={"resume": "no"}))["log"]
        assert log[-2:] == [f"one={answer}", "two=no"]
