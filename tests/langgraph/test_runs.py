"""Runs of graphs on two workers that share their files: pauses, answers, cancels, rollbacks, drains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, RunFailed, RunManager, RunStatus, User
from coordinator.langgraph import GraphAssistant, Preset
from tests.langgraph import graphs
from tests.langgraph.lab import assistants, begun, done, log, past, view, workers
from tests.support.waiting import wait_until

FRESH: dict[str, Any] = {"input": {"log": []}}


async def status(manager: RunManager, thread: str = "t") -> str:
    return (await manager.threads.get(thread)).status


# -- human in the loop


async def test_question_is_answered_on_another_worker(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.asking("one", "two")}) as (a, b):
        run = await begun(a, "g", **FRESH)
        assert await a.wait(run.run_id, timeout=20) == {"log": []}
        row = (await b.runs.explain(run.run_id)).run
        assert (row.status, row.paused) == (RunStatus.success, True)
        assert await status(b) == "interrupted"
        seen = await view(b)
        assert seen.next == ("question",)
        (question,) = seen.interrupts
        assert (question.value, question.task_id) == ({"q": "one"}, seen.tasks[0]["id"])
        assert seen.tasks[0]["interrupts"] == [{"value": {"q": "one"}, "id": question.id}]

        await done(b, "g", command={"resume": 1})
        assert (await view(a)).interrupts[0].value == {"q": "two"}
        assert await done(a, "g", command={"resume": 2}) == {"log": ["one=1", "two=2", "note"]}
        assert await status(b) == "idle"
        assert (await view(b)).interrupts == ()


async def test_several_questions_are_answered_by_id(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.asking_twice_at_once()}) as (a, b):
        await done(a, "g", **FRESH)
        by_value = {one.value: one.id for one in (await view(b)).interrupts}
        assert set(by_value) == {"left", "right"}
        await done(b, "g", command={"resume": {by_value["right"]: "R"}})
        assert [one.value for one in (await view(a)).interrupts] == ["left"]
        assert await done(a, "g", command={"resume": {by_value["left"]: "L"}}) == {
            "log": ["left=L", "right=R"]
        }


async def test_one_answer_to_several_questions_is_an_error_of_the_run(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.asking_twice_at_once()}, 1) as (a,):
        await done(a, "g", **FRESH)
        with pytest.raises(RunFailed, match="multiple pending interrupts"):
            await done(a, "g", command={"resume": "x"})


async def test_null_is_an_answer(tmp_path: Path) -> None:
    made = {"g": graphs.asking("one"), "two": graphs.asking_twice_at_once(), "chain": graphs.chain("a", "b")}
    async with workers(tmp_path, made, 1) as (a,):
        await done(a, "g", **FRESH)
        assert await done(a, "g", command={"resume": None}) == {"log": ["one=None", "note"]}
        await done(a, "two", thread="u", **FRESH)
        with pytest.raises(RunFailed, match="several interrupts are open"):
            await done(a, "two", thread="u", command={"resume": None})
        await done(a, "chain", thread="v", **FRESH, interrupt_before=["b"])
        assert await done(a, "chain", thread="v", command={"resume": None}) == {"log": ["a", "b"]}


async def test_strict_resume_refuses_an_answer_to_a_closed_question(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.asking("one", "two")}, 1) as (a,):
        await done(a, "g", **FRESH)
        closed = (await view(a)).interrupts[0].id
        await done(a, "g", command={"resume": 1})
        with pytest.raises(RunFailed, match="UnknownInterruptError"):
            await done(a, "g", command={"resume": {closed: 1}}, strict_resume=True)


@pytest.mark.parametrize("persistent", [False, True])
async def test_question_in_a_subgraph(tmp_path: Path, persistent: bool) -> None:
    async with workers(tmp_path, {"g": graphs.nested(questions=True, persistent=persistent)}) as (a, b):
        await done(a, "g", **FRESH)
        seen = await view(b, subgraphs=True)
        assert seen.interrupts[0].value == {"q": "inner"}
        inner = seen.tasks[0]["state"]
        assert inner["next"] == ["x"]
        assert seen.tasks[0]["checkpoint"]["checkpoint_ns"].startswith("inner")
        assert (await done(b, "g", command={"resume": 7}))["log"][-3:] == ["inner=7", "y", "after"]


@pytest.mark.parametrize(
    ("request_", "stops_at", "then"),
    [
        ({"interrupt_before": ["b"]}, ("b",), ["a"]),
        ({"interrupt_after": ["b"]}, ("c",), ["a", "b"]),
        ({"interrupt_before": "*"}, ("a",), []),
    ],
    ids=["before", "after", "all"],
)
async def test_breakpoint_pauses_and_none_goes_on(
    tmp_path: Path, request_: dict[str, Any], stops_at: tuple[str, ...], then: list[str]
) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b", "c")}) as (a, b):
        run = await begun(a, "g", **FRESH, **request_)
        assert (await a.wait(run.run_id, timeout=20))["log"] == then
        assert (await view(b)).next == stops_at
        assert await status(b) == "interrupted"
        assert await done(b, "g") == {"log": ["a", "b", "c"]}
        assert await status(a) == "idle"


async def test_goto_update_and_send(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.routed()}) as (a, b):
        await done(a, "g", **FRESH)
        assert (await done(b, "g", command={"goto": "side"}))["log"] == ["start", "side"]
        sent = await done(
            a, "g", command={"goto": [{"node": "worker", "input": "x"}], "update": {"log": ["u"]}}
        )
        assert sent["log"] == ["start", "side", "u", "worker:x"]
        pairs = await done(b, "g", command={"update": [["log", ["p"]], ["answer", "yes"]]})
        assert (pairs["log"][-1], pairs["answer"]) == ("p", "yes")
        assert (await done(a, "g", command={"goto": "jump"}))["log"][-3:] == ["jump", "worker:1", "worker:2"]


async def test_new_input_on_a_paused_thread_begins_anew(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.asking("q")}, 1) as (a,):
        await done(a, "g", **FRESH)
        await done(a, "g", input={"log": ["again"]})
        assert (await view(a)).interrupts[0].value == {"q": "q"}
        assert await log(a) == ["again"]


async def test_run_that_has_left_a_checkpoint_goes_on_from_it(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.routed()}, 1) as (a,):
        await done(a, "g", **FRESH)
        assistant = a.assistants.named("g")

        class Twice:
            """The assistant, whose run is executed again after it has been opened again."""

            def __getattr__(self, name: str) -> Any:
                return getattr(assistant, name)

            async def run(self, ctx: Any, request: Any) -> Any:
                await assistant.run(ctx, request)
                ctx.opened = await assistant.states.open(ctx.run.thread_id, ctx.run.run_id, ctx.fence)
                return await assistant.run(ctx, request)

        record = await a.create_or_reject("t", "g", kwargs={"input": None, "command": {"goto": "side"}})
        a.launch(record, Twice())  # type: ignore[arg-type]  # it has what is called of an assistant
        assert await a.wait(record.run_id, timeout=20) == {"log": ["start", "side"]}


# -- stopping


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_cancelled_run_keeps_its_finished_steps(tmp_path: Path, second: int) -> None:
    waiting = graphs.Waiting()
    async with workers(tmp_path, {"g": waiting.graph}) as team:
        run = await begun(team[0], "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        assert await team[second].cancel(run.run_id, wait=10)
        assert run.status is RunStatus.interrupted
        assert waiting.cancels == 1
        seen = await view(team[1])
        assert (seen.values, seen.next) == ({"log": ["a"]}, ("b",))
        waiting.released.set()
        assert await done(team[1], "g") == {"log": ["a", "b", "c"]}


async def test_several_cancels_are_one_for_the_graph(tmp_path: Path) -> None:
    waiting = graphs.Waiting()
    async with workers(tmp_path, {"g": waiting.graph}, 1) as (a,):
        run = await begun(a, "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        assert run.task is not None
        for _ in range(3):
            run.task.cancel()
        await asyncio.wait((run.task,), timeout=20)
        assert run.task.cancelled()
        assert waiting.cancels == 1
        assert await log(a) == ["a"]


async def test_thread_is_held_until_a_sync_node_has_ended(tmp_path: Path) -> None:
    waiting = graphs.Waiting(sync=True)
    async with workers(tmp_path, {"g": waiting.graph}, 1) as (a,):
        a.worker.install_executor(4)
        run = await begun(a, "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        cancel = asyncio.create_task(a.cancel(run.run_id, wait=10))
        await wait_until(lambda: run.task is not None and run.task.done(), description="the task has stopped")
        assert await status(a) == "busy"
        assert not waiting.thread_over.is_set()
        waiting.thread_released.set()
        assert await cancel
        assert waiting.thread_over.is_set()
        assert await status(a) == "interrupted"
        assert await log(a) == ["a"]


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])
async def test_rolled_back_run_leaves_nothing(tmp_path: Path, second: int) -> None:
    waiting = graphs.Waiting()
    async with workers(tmp_path, {"g": waiting.graph}) as team:
        waiting.released.set()
        await done(team[0], "g", **FRESH)
        waiting.released.clear()
        waiting.reached.clear()
        before = await past(team[1])
        run = await begun(team[0], "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        assert await team[second].cancel(run.run_id, action="rollback", wait=10)
        assert await past(team[1]) == before
        assert await status(team[1]) == "idle"


async def test_rollback_of_an_answer_opens_the_question_again(tmp_path: Path) -> None:
    waiting = graphs.Waiting()
    builder = graphs.asking("q")
    builder.add_node("wait", waiting.graph.nodes["b"].runnable)
    builder.add_edge("note", "wait")
    async with workers(tmp_path, {"g": builder}) as (a, b):
        await done(a, "g", **FRESH)
        before = await past(a)
        run = await begun(a, "g", command={"resume": "yes"})
        async with asyncio.timeout(20):
            await waiting.reached.wait()

        async def answered() -> bool:
            return await log(b) == ["q=yes", "note"]

        await wait_until(answered, description="the steps after the answer")
        assert await b.cancel(run.run_id, action="rollback", wait=10)
        assert await past(b) == before
        waiting.released.set()
        assert await done(b, "g", command={"resume": "no"}) == {"log": ["q=no", "note", "b"]}


async def test_graph_without_retries_ends_within_the_grace_of_a_drain(tmp_path: Path) -> None:
    waiting = graphs.Waiting()
    async with workers(tmp_path, {"g": waiting.graph}, retries=0) as (a, b):
        run = await begun(a, "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        drain = asyncio.create_task(a.worker.drain(grace=20))
        await wait_until(lambda: a.worker.draining, description="the worker drains")
        waiting.released.set()
        await drain
        row = (await b.runs.explain(run.run_id)).run
        assert (row.status, row.paused) == (RunStatus.success, False)
        assert await log(b) == ["a", "b", "c"]


async def test_drain_without_grace_keeps_the_finished_steps_of_a_graph_without_retries(
    tmp_path: Path,
) -> None:
    waiting = graphs.Waiting()
    async with workers(tmp_path, {"g": waiting.graph}, retries=0) as (a, b):
        run = await begun(a, "g", **FRESH)
        async with asyncio.timeout(20):
            await waiting.reached.wait()
        await a.worker.drain(grace=0)
        assert (await b.runs.explain(run.run_id)).run.status is RunStatus.interrupted
        assert await log(b) == ["a"]
        waiting.released.set()
        assert await done(b, "g") == {"log": ["a", "b", "c"]}


# -- failing


async def test_failure_keeps_the_steps_before_it(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.failing()}) as (a, b):
        with pytest.raises(RunFailed, match="ValueError: the node failed"):
            await done(a, "g", **FRESH)
        assert await log(b) == ["a"]
        assert await status(b) == "error"
        assert (await view(b)).tasks[0]["error"] == "ValueError('the node failed')"


async def test_recursion_limit_of_the_request(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b", "c")}, 1) as (a,):
        with pytest.raises(RunFailed, match="GraphRecursionError"):
            await done(a, "g", **FRESH, config={"recursion_limit": 2})


async def test_nothing_to_go_on_with_is_an_error_of_the_run(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        with pytest.raises(RunFailed, match="EmptyInputError"):
            await done(a, "g")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "input": ({"input": [1]}, "input: must be an object"),
    "node to pause before": (
        {"input": {}, "interrupt_before": ["no"]},
        "interrupt_before: there is no node 'no'",
    ),
    "node to pause after": ({"input": {}, "interrupt_after": ["no"]}, "interrupt_after: there is no node"),
    "goto": ({"command": {"goto": "no"}}, "command: there is no node 'no'"),
    "send": ({"command": {"goto": [{"input": 1}]}}, "command: goto must name nodes"),
    "context": ({"input": {}, "context": {"colour": "red"}}, "context: .*colour"),
    "limit": ({"input": {}, "config": {"recursion_limit": 0}}, "config: recursion_limit"),
    "tags": ({"input": {}, "config": {"tags": "x"}}, "config: tags must be a list"),
    "checkpoint": (
        {"input": {}, "checkpoint": {"checkpoint_id": "newest"}},
        "checkpoint_id: must be the UUID of a state, not 'newest'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_request_is_refused_before_admission(tmp_path: Path, case: str) -> None:
    request, why = WRONG[case]
    async with workers(tmp_path, {"g": graphs.styled()}, 1) as (a,):
        with pytest.raises(InvalidArgument, match=why):
            await a.create_or_reject("t", "g", kwargs=request)
        assert await a.store.thread("t") is None


async def test_unknown_checkpoint_does_not_begin_anew(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        await done(a, "g", **FRESH)
        elsewhere = {"checkpoint_id": "1f000000-0000-6000-8000-000000000000"}
        with pytest.raises(RunFailed, match="the thread has no such checkpoint"):
            await done(a, "g", **FRESH, checkpoint=elsewhere)
        assert await log(a) == ["a"]


# -- configuration


async def test_client_cannot_set_keys_of_the_server(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a")}, 1) as (a,):
        stolen = {"configurable": {"thread_id": "other", "__pregel_checkpointer": 1, "checkpoint_ns": "x"}}
        run = await begun(a, "g", **FRESH, config={**stolen, "metadata": {"run_id": "x", "colour": "red"}})
        await a.wait(run.run_id, timeout=20)
        (newest, *_) = await past(a)
        assert (newest.metadata["run_id"], newest.metadata["colour"]) == (run.run_id, "red")
        assert newest.metadata["graph_id"] == "g"
        assert await log(a) == ["a"]


async def test_assistants_of_one_graph_have_config_and_context_of_their_own(tmp_path: Path) -> None:
    from coordinator import open_coordinator
    from coordinator.langgraph import sqlite_states
    from coordinator.langgraph.loading import GraphEntry

    states, entry = sqlite_states(tmp_path / "checkpoints.db"), GraphEntry("styled", graphs.styled())
    preset = Preset(config={"configurable": {"model": "big"}}, context={"tone": "warm"})
    named = {
        "plain": GraphAssistant(entry, states, name="plain"),
        "warm": GraphAssistant(entry, states, name="warm", preset=preset),
    }
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        assert (await done(a, "plain", **FRESH))["log"] == ["plain/None"]
        assert (await done(a, "warm", thread="u", **FRESH))["log"] == ["warm/big"]
        requested = {"context": {"tone": "cold"}, "config": {"configurable": {"model": "small"}}}
        assert (await done(a, "warm", thread="v", **FRESH, **requested))["log"] == ["cold/small"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_durability(tmp_path: Path, durability: str) -> None:
    async with workers(tmp_path, {"g": graphs.chain("a", "b")}, 1) as (a,):
        assert (await done(a, "g", **FRESH, durability=durability))["log"] == ["a", "b"]
        assert len(await past(a)) == (1 if durability == "exit" else 4)


async def test_user_reaches_the_graph(tmp_path: Path) -> None:
    seen: list[Any] = []

    def make(config: Any, runtime: Any) -> Any:
        seen.append((runtime.access_context, runtime.user and runtime.user.identity))
        return graphs.chain("a")

    named = assistants(tmp_path, {"g": make})
    from coordinator import open_coordinator

    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=named) as a:
        run = await a.create_or_reject("t", "g", kwargs=FRESH, user_id="ann")
        a.launch(run)
        await a.wait(run.run_id, timeout=20)
        await a.threads.update_state("t", {"log": ["u"]}, as_node="a", user_id="ann")
        await a.threads.state("t", user_id="ann")
        await a.assistants.named("g").describe(User("ann"))
    assert set(seen) >= {
        (access, "ann")
        for access in ("threads.create_run", "threads.update", "threads.read", "assistants.read")
    }


async def test_functional_api_keeps_its_previous_result(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": graphs.doubled}, 1) as (a,):
        assert await done(a, "g", input=4) == 8
        assert (await view(a)).values == 8
